"""TIE1xx: the flags themselves, where loaders read them differently and something is lost for it.

The three rules divide one disagreement by its cause (`groups.disputed`), so that a group is told once.
"""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.declared import Flag
from tiecheck.records.loaders import LoaderView
from tiecheck.records.report import Severity
from tiecheck.records.stored import Group
from tiecheck.records.words import Outcome, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.stored.groups import (
    Cause,
    flag_name,
    flag_places,
    flags_read,
    loses_silently,
    losing_views,
    readings_text,
    reads_alike,
    severity_of,
    spoken_for,
    stored_places,
    view_titles,
    views_of,
    why_disputed,
)
from tiecheck.wording import listed


def _disputes(
    groups: tuple[Group, ...], loaders: tuple[LoaderView, ...], flags: tuple[Flag, ...], cause: Cause
) -> Iterator[tuple[Group, tuple[LoaderView, ...]]]:
    """The groups on which loaders disagree for one cause; that one reads what is no truth value is TIE112's to say."""
    odd = {flag.dotted for flag in flags if not isinstance(flag.value, bool)}
    for group in groups:
        views = views_of(group, loaders)
        if odd & flags_read(views):
            continue
        if why_disputed(views) == cause and group.stored_names and group.declared is not None:
            yield group, views


def _told(
    groups: tuple[Group, ...], loaders: tuple[LoaderView, ...], flags: tuple[Flag, ...], cause: Cause
) -> Iterator[Draft]:
    """Yield what a flag that is silent, or false, comes to where that is not the same in all loaders."""
    for group, views in _disputes(groups, loaders, flags, cause):
        if spoken_for(views):
            silent = cause == "silent"
            says = f"The config does not set {flag_name(group)}" if silent else f"{flag_name(group)} is false"
            from tiecheck.rules.stored.fixes import disputed_flag

            yield Draft(
                f"{says}, and loaders disagree on whether {listed(group.names)} are tied. {readings_text(views)}",
                group.names,
                (*flag_places(flags, views, group), *stored_places(group)),
                severity="info" if reads_alike(views) and not (silent or loses_silently(views)) else severity_of(views),
                hurts=losing_views(views),
                edits=disputed_flag(group, groups, views, silent=silent),
                no_mend="no flag is right for every loader and every group that it ties."
                if silent
                else _why_apart(group, views),
            )


class ConflictingTieFlags(Rule):
    """The config sets `tie_word_embeddings` at several levels, and loaders read different ones.

    ## What it does
    Finds groups for which some loaders read a flag that ties and others a flag that does not: the top level says one
    thing and `text_config`, or another nested config, says another or nothing. A flag that no loader reads is left
    alone.

    ## Why it is bad
    transformers 5 reads the level of the config that sees both layers, 4.57 asks `get_text_config()`, serving engines
    have their own way. With one file, one of them ties and another does not: a random head, or a trained head thrown
    away, depending on who loads it. Where both members are stored and equal nothing is lost yet, and it is a warning.

    ## How to fix it
    Write the same value at every level that the finding names. What the checkpoint stores tells which: one tensor for
    the group means true, two different ones mean false.
    """

    code = "TIE103"
    summary = "nested and top-level flags disagree, and loaders read different ones"
    severity = "error"
    confidence = "medium"
    threads = (
        "vllm-project/vllm#33359 vllm-project/vllm#51063 huggingface/transformers#45857 "
        "huggingface/transformers#46456 NVIDIA-NeMo/Automodel#2732 ml-explore/mlx-lm#648"
    )

    def check(
        self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...], flags: tuple[Flag, ...]
    ) -> Iterator[Draft | Unknown]:
        for group, views in _disputes(groups, loaders, flags, "levels"):
            if not losing_views(views) and any(view.outcome == "unknown" for view in views if view.ties is not None):
                continue  # whether anything is lost hangs on bytes that were not compared
            if not losing_views(views) and all(len(tensor.shape) < 2 for tensor in group.tensors):
                continue  # equal biases are what a default draw leaves behind
            from tiecheck.rules.stored.fixes import either_flag

            yield Draft(
                f"The flags for {listed(group.names)} do not agree. {readings_text(views)}",
                group.names,
                (*flag_places(flags, views, group), *stored_places(group)),
                severity=None if losing_views(views) else "warning",
                hurts=losing_views(views) or None,
                edits=either_flag(group, groups, flags_read(views)),
                no_mend="the same flags tie another group, which needs the other value.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, llama_group, loader_facts, loader_view, row_comparison, tie_flag

        nested = {"reads": "text_config.tie_word_embeddings", "value": False, "ties": False}
        flags = (tie_flag(True), tie_flag(False, "text_config"))
        both = llama_group(stored=PAIR)
        stories: tuple[tuple[str, Group, tuple[Outcome, Outcome], Severity], ...] = (
            ("one stored: the nested false makes a random head", llama_group(), ("tied", "head-random"), "error"),
            (
                "two different ones stored: a nested true would throw one away",
                both._replace(stored="separate", comparison=row_comparison(rows_differ=3, first=0)),
                ("kept-apart", "head-discarded"),
                "error",
            ),
            (
                "two equal ones stored: nothing is lost yet",
                both._replace(stored="copy", comparison=row_comparison()),
                ("tied", "kept-apart"),
                "warning",
            ),
        )
        for title, held, outcomes, severity in stories:
            top = loader_view("transformers", outcomes[0], versions="5")
            other = loader_view("transformers", outcomes[1], versions="4.57", **nested)
            yield Case(title, loader_facts(held, top, other, flags=flags), finds=(severity,))
        silent = loader_view("transformers", "head-random", versions="5", value=None, ties=False)
        loud = loader_view("transformers", "tied", versions="4.57", reads="text_config.tie_word_embeddings")
        inner = loader_facts(llama_group(), silent, loud, flags=(tie_flag(True, "text_config"),))
        yield Case("a nested true under a silent top", inner, finds=("error",))
        agreed = loader_view("vllm", "tied", reads="text_config.tie_word_embeddings")
        yield Case("all levels agree", loader_facts(llama_group(), loader_view("mlx-lm", "tied"), agreed, flags=flags))
        deaf = loader_view("mergekit", "crash", reads=None, value=None, ties=False)
        yield Case(
            "a loader that reads no flag", loader_facts(llama_group(), loader_view("mlx-lm", "tied"), deaf, flags=flags)
        )
        random = loader_view("transformers", "head-random", value=None, ties=False)
        engine = loader_view("mlx-lm", "tied", reads="text_config.tie_word_embeddings")
        yield Case(
            "every transformers loses the head alike: TIE102", loader_facts(llama_group(), random, engine, flags=flags)
        )


class ImplicitTieFlag(Rule):
    """The config does not set `tie_word_embeddings`, and loaders assume different things.

    ## What it does
    Finds groups whose flag is not written, that some loaders tie by default and others do not, where one of the two
    loses something. It is an error where the current transformers is the one.

    ## Why it is bad
    transformers 4 took an absent flag for true, transformers 5 asks the class, and other loaders have defaults of
    their own. The checkpoint works where it was written, and comes out with a random head, or without its trained one,
    elsewhere.

    ## How to fix it
    Write the flag into `config.json`: true where the checkpoint stores one tensor for the group, false where it stores
    two that differ.
    """

    code = "TIE104"
    summary = "the flag is absent, its default differs between loaders, and so does the outcome"
    severity = "warning"
    confidence = "medium"
    threads = "huggingface/transformers#44931 huggingface/transformers#44988 ml-explore/mlx-examples#566"

    def check(
        self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...], flags: tuple[Flag, ...]
    ) -> Iterator[Draft | Unknown]:
        yield from _told(groups, loaders, flags, "silent")

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, llama_group, loader_facts, loader_view, row_comparison, tie_flag

        old = {"versions": "4.57", "value": None}
        new = {"versions": "5", "value": None, "ties": False}
        lost = (loader_view("transformers", "tied", **old), loader_view("transformers", "head-random", **new))
        silent = llama_group(value=None)
        yield Case("tied before, random now", loader_facts(silent, *lost), finds=("error",))
        odd = tie_flag(True, "vision_config")._replace(value="true")
        yield Case(
            "the same, and a text that nobody reads", loader_facts(silent, *lost, flags=(odd,)), finds=("error",)
        )
        thrown = (
            loader_view("transformers", "head-discarded", **old),
            loader_view("transformers", "kept-apart", **new),
        )
        both = llama_group(value=None, stored=PAIR)._replace(
            stored="separate", comparison=row_comparison(rows_differ=3, first=0)
        )
        yield Case("4.57 throws the head away", loader_facts(both, *thrown), finds=("warning",))
        equal = (loader_view("transformers", "tied", **old), loader_view("transformers", "kept-apart", **new))
        yield Case("equal copies: nothing is lost", loader_facts(both, *equal))
        alike = (
            loader_view("transformers", "tied", **old),
            loader_view("transformers", "tied", versions="5", value=None),
        )
        yield Case("every default ties", loader_facts(silent, *alike))


class FlagMeansSomethingElse(Rule):
    """The flag is false, which some loaders take for "not tied" and others do not.

    ## What it does
    Finds groups whose flag is false where one loader ties all the same and another does not, and something is lost in
    one of them. It is an error where the current transformers is the one. Engines that never ask the flag count too:
    they tie Gemma or GPT-2 whatever it says, and throw a trained head away without a word.

    ## Why it is bad
    For T5 `tie_word_embeddings: false` said "do not scale the logits", and encoder, decoder and shared embedding were
    one tensor all along; BART's, Marian's and many others' encoder and decoder embeddings, and the bias of BERT's head,
    were tied in transformers 4 whatever the flag said. A loader that takes false at its word leaves them random.

    ## How to fix it
    Store every member that is to be kept (save with the flag false and all tensors in the file), or, where the model
    was trained tied, set the flag to true. For a T5 that must not scale its logits keep false, and store `lm_head`.
    """

    code = "TIE105"
    summary = "a false flag that some loaders do not take for `not tied`, and something is lost for it"
    severity = "warning"
    confidence = "medium"
    messages = ("encoder.embed_tokens.weight | MISSING",)
    threads = (
        "huggingface/transformers#47620 huggingface/transformers#48154 huggingface/transformers#48238 "
        "modelscope/DiffSynth-Studio#636 vllm-project/vllm-omni#2760 huggingface/text-generation-inference#556 "
        "ml-explore/mlx-examples#591"
    )

    def check(
        self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...], flags: tuple[Flag, ...]
    ) -> Iterator[Draft | Unknown]:
        yield from _told(groups, loaders, flags, "meaning")

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, llama_group, loader_facts, loader_view, row_comparison, tie_flag

        old, new = {"versions": "4.57", "value": False}, {"versions": "5", "value": False}
        held = llama_group(value=False)
        both = llama_group(value=False, stored=PAIR)._replace(
            stored="separate", comparison=row_comparison(rows_differ=3, first=0)
        )

        def case(title: str, stored: Group, loaders: tuple[LoaderView, ...], *finds: Severity) -> Case:
            return Case(title, loader_facts(stored, *loaders, flags=(tie_flag(False),)), finds=finds)

        random = (
            loader_view("transformers", "head-random", **old, ties=False),
            loader_view("transformers", "tied", **new),
        )
        yield case("stored once: 4.57 makes the head at random", held, random, "warning")
        swapped = (
            loader_view("transformers", "tied", **old),
            loader_view("transformers", "member-random", **new, ties=False),
        )
        yield case("stored once: 5 makes a member at random", held, swapped, "error")
        apart = (
            loader_view("transformers", "kept-apart", **old, ties=False),
            loader_view("transformers", "kept-apart", **new),
        )
        yield case("T5 1.1 with its own head stored", both, apart)
        deaf = loader_view("sglang", "head-discarded", reads=None, value=None)
        untied = (apart[0], apart[1]._replace(ties=False), deaf)
        yield case("an engine ties against the false", both, untied, "warning")
        alike = (random[0], loader_view("transformers", "head-random", **new, ties=False))
        yield case("untied for everybody is another rule's matter", held, alike)


def _why_apart(group: Group, views: tuple[LoaderView, ...]) -> str:
    """Tell why no change of the files helps loaders that do not take a false for what it says."""
    if reads_alike(views):
        return "nothing is wrong with the checkpoint; these loaders cannot serve this class untied."
    if not group.missing:
        return f"{view_titles(losing_views(views))} cannot keep them apart; use a loader that does."
    return "the files do not tell which of the stored values the missing members had."
