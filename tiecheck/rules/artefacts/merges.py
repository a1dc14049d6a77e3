"""TIE601 to TIE603: what an adapter does to a tie of its base, and what a merge makes of it.

What PEFT does was run in 0.15.2, 0.17.1, 0.18.1 (transformers 4.57.6), 0.19.1, 0.20.0 and 0.21.0 (5.23.0). A copy from
`modules_to_save` is put in place of the module, so the tie is broken; until 0.18 the config's flag stays true, from
0.19 on the merge sets it false. An update is added to the one tensor in all versions, and so are trained tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.artefacts import AdaptedTie, Adapter, AdapterBase, AdapterTies, Change
from tiecheck.records.report import Severity
from tiecheck.records.stored import Comparison
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import rows_text
from tiecheck.wording import listed, verb_form

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
CONFIG = "adapter_config.json"
TRAINED = "what was trained is in the adapter, and no change of its files makes it the same for all members."
PARTED = (
    "PEFT puts the copy in place of the module, so that the merged model is not tied. From 0.19 on the merge sets the "
    "flag of its config false, and nothing is lost; up to 0.18 the flag stays true, and the saved model loses a copy "
    "when it is loaded."
)
FORGOTTEN = (
    "PEFT puts the copy in place of the module, so that the merged model is not tied, and its merge of LN_TUNING "
    "leaves the flag true (0.21): the saved model loses a copy when it is loaded."
)
UNTIED = (
    "A base that is untied first, with a head of its own and the flag false, takes the adapter as it was trained; so "
    "does an adapter that is never merged."
)


FORGETS = "LN_TUNING"
"""The kind of adapter whose merge does not look at the flag."""


def _after_merge(adapter: Adapter) -> str:
    """Return what a merge makes of copies that are not kept one."""
    return FORGOTTEN if adapter.kind == FORGETS else PARTED


def _parted(tie: AdaptedTie) -> bool:
    """Tell whether a merge gives members tensors of their own."""
    return bool(tie.members("copied")) and not tie.kept


class AdapterOnOneTiedMember(Rule):
    """An adapter trains one member of a tie, and the others keep the old values.

    ## What it does
    Looks for the members of the base's ties among the modules that the adapter has weights of. It finds a copy of one
    member alone (`modules_to_save`), and single tokens (`trainable_token_indices`) that are trained in the head alone,
    or in two members with different tokens.

    ## Why it is bad
    While the adapter is applied the tie is broken: a trained embedding stands beside a head that knows nothing of it,
    so that new tokens can be read and are never predicted. A merge writes trained tokens into the one tensor, so that
    the merged model is not the one that was trained.

    ## How to fix it
    Train again with `ensure_weight_tying=True` (PEFT 0.18 and newer, LoRA), or with `trainable_token_indices` for the
    embedding alone: PEFT then trains the tied members as one. A head that is meant to be its own is no mistake:
    check that the config of the merged model says `tie_word_embeddings: false`.
    """

    code = "TIE601"
    summary = "an adapter trains one member of a tied group, and the others keep the old values"
    severity = "error"
    threads = "huggingface/peft#1750 huggingface/peft#2399 hiyouga/LlamaFactory#6749"

    def check(self, adapted_ties: AdapterTies) -> Iterator[Draft]:
        adapter = adapted_ties.adapter
        for tie in adapted_ties.ties:
            tokens, copied = tie.members("tokens"), tie.members("copied")
            if tokens and not _follows(tie, adapter):
                yield Draft(
                    f"The adapter trains tokens of {listed(tokens)}, which the base ties to "
                    f"{listed(tuple(n for n in tie.group.names if n not in tokens) or tie.group.names)}, and not as "
                    "one: a merge writes them into the one tensor, and the result is not the model that was trained.",
                    tie.group.names,
                    (file_place(CONFIG, "trainable_token_indices"),),
                    "The tokens of the embedding alone would be trained for all members. " + UNTIED,
                    no_mend=TRAINED,
                )
            elif _parted(tie) and len(copied) < len(tie.group.names):
                others = tuple(name for name in tie.group.names if name not in copied)
                stale = tie.group.source in copied and bool(tie.untouched)
                keep = f" {listed(tie.untouched)} {verb_form('keep', many=len(tie.untouched) > 1)}" if stale else ""
                tail = f"{keep} the old values: trained tokens cannot be said." if stale else ""
                yield Draft(
                    f"The adapter holds a trained copy of {listed(copied)} (modules_to_save), which the base ties to "
                    f"{listed(others)}.{tail} {_after_merge(adapter)}",
                    tie.group.names,
                    (file_place(CONFIG, "modules_to_save"),),
                    "If the head is meant to be its own, the merged config has to say tie_word_embeddings: false.",
                    severity="warning" if stale or adapter.kind == FORGETS else "info",
                    no_mend=TRAINED,
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield adapter_case("a copy of the embedding", (EMBEDDING, "copied"), finds=("warning",))
        yield adapter_case("a copy of the head", (HEAD, "copied"), finds=("info",))
        yield adapter_case("a copy of the head, and no flag is set", (HEAD, "copied"), finds=("warning",), kind=FORGETS)
        yield adapter_case(
            "a copy of one, an update of the other", (HEAD, "copied"), (EMBEDDING, "added"), finds=("info",)
        )
        yield adapter_case("tokens of the head", (HEAD, "tokens"), finds=("error",))
        both: tuple[tuple[str, Change], ...] = ((HEAD, "tokens"), (EMBEDDING, "tokens"))
        yield adapter_case("other tokens of each", *both, finds=("error",), same_tokens=False)
        yield adapter_case("the same tokens of both", *both)
        yield adapter_case("tokens of the embedding, which PEFT trains for both", (EMBEDDING, "tokens"))
        yield adapter_case("a copy of each", (HEAD, "copied"), (EMBEDDING, "copied"))
        yield adapter_case("a copy of the embedding that is kept tied", (EMBEDDING, "copied"), ensured=True)


class AdapterTrainsBothCopies(Rule):
    """An adapter holds a trained copy of several members of one tie, and they differ.

    ## What it does
    Compares the copies that the adapter holds of the members of one tie (`modules_to_save`) byte by byte. Equal
    copies are a note, where PEFT was asked to keep one (`ensure_weight_tying`) and loads several.

    ## Why it is bad
    Two copies were trained where the model has one tensor. As long as the adapter is applied both are used. A merge
    with PEFT up to 0.18 leaves the flag true, and whoever loads the result keeps one of the two; converters and engines
    that go by the flag do the same. With `ensure_weight_tying` PEFT ties the copies when it loads them: one is lost.

    ## How to fix it
    Merge with PEFT 0.19 or newer, and check that the merged config says `tie_word_embeddings: false`. To keep the tie,
    train again with `ensure_weight_tying=True`.
    """

    code = "TIE602"
    summary = "modules_to_save holds several members of one tie, and they differ"
    severity = "error"
    messages = (
        "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter, but `ensure_weight_tying`",
        "Input and output embeddings are no longer tied after merging.",
    )
    threads = (
        "huggingface/peft#1750 huggingface/peft#2803 huggingface/peft#2864 huggingface/peft#2944 "
        "unslothai/unsloth#9331 unslothai/unsloth#3711"
    )

    def check(self, adapted_ties: AdapterTies) -> Iterator[Draft | Unknown]:
        for tie in adapted_ties.ties:
            copied = tie.members("copied")
            if len(copied) < 2:
                continue
            if tie.comparison is None or isinstance(tie.comparison, Unknown):
                why = tie.comparison.reason if tie.comparison is not None else "their bytes were not read"
                yield Unknown(f"the copies of {listed(copied)} were not compared: {why}")
            elif not tie.comparison.alike:
                ensured = tie.kept
                what = (
                    "the config asks to keep them tied (ensure_weight_tying), so that PEFT loads both into one tensor "
                    "and one is lost."
                    if ensured
                    else _after_merge(adapted_ties.adapter)
                )
                yield Draft(
                    f"The adapter holds trained copies of {listed(copied)}, which the base ties, and "
                    f"{rows_text(tie.comparison)}: {what}",
                    copied,
                    (file_place(CONFIG, "modules_to_save"),),
                    "" if ensured else "The merged config has to say tie_word_embeddings: false.",
                    severity=None if ensured else "warning",
                    no_mend="which of the two copies is right is not written in them."
                    if ensured
                    else "both copies are used while the adapter is applied; the merge has to separate them.",
                )
            elif adapted_ties.adapter.ensured and not tie.kept:
                yield Draft(
                    f"The adapter holds equal copies of {listed(copied)}, which the config asks to keep tied "
                    "(ensure_weight_tying); by these names PEFT loads them as several. "
                    f"{_after_merge(adapted_ties.adapter)}",
                    copied,
                    (file_place(CONFIG, "modules_to_save"),),
                    severity="info",
                    no_mend=TRAINED,
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import row_comparison

        both: tuple[tuple[str, Change], ...] = ((HEAD, "copied"), (EMBEDDING, "copied"))
        apart = row_comparison(rows_differ=3, first=1)
        yield adapter_case("they differ", *both, finds=("warning",), comparison=apart)
        yield adapter_case("they differ, and are to be one", *both, finds=("error",), comparison=apart, ensured=True)
        yield adapter_case("they are equal", *both, comparison=row_comparison())
        yield adapter_case("they are equal, and are to be one", *both, comparison=row_comparison(), ensured=True)
        yield adapter_case("a copy of the head alone", (HEAD, "copied"))
        yield adapter_case("not compared", *both, unknown=True)


class LowRankUpdateOnTiedHead(Rule):
    """An adapter adds to the weight of one tied member, and a merge adds to all of them.

    ## What it does
    Finds updates (LoRA, DoRA, IA3, LoHa, OFT and their kin) of a member of a tie, and layers that are repeated over the
    same weights (`layer_replication`).

    ## Why it is bad
    While the adapter is applied its update goes through the one module alone. A merge adds it to the one tensor that
    all members share, so that an update of the head changes the input embedding as well, and the merged model does not
    give the logits of the adapter. With `ensure_weight_tying` both modules have the update, and a merge adds it twice.

    ## How to fix it
    Untie the base before the merge: load it with `tie_word_embeddings=False`, clone the embedding into the head, and
    merge into that. Or leave embedding and head out of the target modules, or do not merge.
    """

    code = "TIE603"
    summary = "an adapter adds to one tied member, and a merge changes the others as well"
    severity = "warning"
    messages = (
        "Model with `tie_word_embeddings=True` and the tied_target_modules=['lm_head'] are part of the adapter.",
    )
    threads = "huggingface/peft#2018 huggingface/peft#2244 huggingface/peft#2864"

    def check(self, adapted_ties: AdapterTies) -> Iterator[Draft]:
        adapter = adapted_ties.adapter
        for tie in adapted_ties.ties:
            added = tie.members("added")
            left = [n for n in tie.group.names if tie.kept or n not in tie.members("copied")]
            if not added or len(left) < 2 or adapter.kind == "mlx":
                continue
            others = tie.untouched or tie.group.names
            change = verb_form("change", many=len(others) > 1)
            twice = " more than once" if len(added) > 1 else ""
            yield Draft(
                f"The adapter adds to {listed(added)}, and the base ties {listed(tie.group.names)}: a merge adds the "
                f"update to the one tensor{twice}, so that {listed(others)} {change} with it, and the merged model "
                "does not give the logits of the adapter.",
                tie.group.names,
                (file_place(CONFIG, f"an update of {listed(added)} ({adapter.kind})"),),
                UNTIED,
                no_mend=TRAINED,
            )
        if adapter.replicated:
            yield Draft(
                "The adapter repeats layers of the base over the same weights (layer_replication), with an update for "
                "each: a merge adds the updates of all of them to the one weight that they share.",
                ("model.layers",),
                (file_place(CONFIG, "layer_replication"),),
                "It is sound as long as it is not merged.",
                no_mend="layers with weights of their own are another base.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield adapter_case("an update of the head", (HEAD, "added"), finds=("warning",))
        yield adapter_case("of both", (HEAD, "added"), (EMBEDDING, "added"), finds=("warning",), ensured=True)
        yield adapter_case("repeated layers", finds=("warning",), replicated=True)
        yield adapter_case("nothing that is tied")
        yield adapter_case("an update beside a copy, which parts the tie", (HEAD, "added"), (EMBEDDING, "copied"))
        yield adapter_case("mlx, where a tied head is the adapted embedding", (EMBEDDING, "added"), kind="mlx")


def _follows(tie: AdaptedTie, adapter: Adapter) -> bool:
    """Tell whether PEFT trains the tokens of all members as one: where the embedding's are among them, and the same."""
    return tie.group.source in tie.members("tokens") and (adapter.same_tokens or adapter.kind == "TRAINABLE_TOKENS")


def adapter_case(
    title: str,
    *changes: tuple[str, Change],
    finds: tuple[Severity, ...] = (),
    unknown: bool = False,
    comparison: Comparison | None = None,
    homeless: tuple[str, ...] = (),
    **fields: Any,
) -> Case:
    """Return a case of a Llama's tie that an adapter meets; `fields` are the adapter's."""
    from tiecheck.rules.cases import llama_group, sharded_checkpoint

    checkpoint = sharded_checkpoint({"adapter_model.safetensors": ()})
    adapter = Adapter("LORA", None, checkpoint, (), ensured=False, replicated=False)._replace(**fields)
    group = llama_group()
    base = AdapterBase("base", "LlamaForCausalLM", "llama", (group,), HEAD, known=True)
    ties = (AdaptedTie(group, tuple(sorted(changes)), comparison, adapter.ensured),) if changes else ()
    return Case(title, {"adapted_ties": AdapterTies(adapter, base, ties, homeless)}, finds, unknown)
