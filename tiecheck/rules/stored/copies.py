"""TIE1xx: equal copies in a checkpoint, declared as one tensor or not."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Group
from tiecheck.records.words import RANDOM, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.stored.groups import (
    declaration_place,
    declarer_text,
    endings_text,
    flags_to_set,
    guess_confidence,
    losing_views,
    stored_places,
    tied_by_intent,
    uncompared_reasons,
    views_of,
)
from tiecheck.wording import listed, size

_NAN = "They hold NaN, which is equal to nothing, so that transformers 5 keeps them apart; 4.57 ties them."
_NEEDED = "These loaders need that"
_OPTIONAL = "That saves the space; nothing has to be done"
_ONCE = "Then transformers 5 ties them. Find out where the NaN comes from"


class RedundantTiedCopy(Rule):
    """The group is tied, and stored twice with equal bytes.

    ## What it does
    Finds groups declared as tied whose members are all stored and identical.

    ## Why it is bad
    Mostly it is only wasted space, and some consumers even need the copy. Strict loaders refuse it
    (`KeyError: 'lm_head.weight'`, `Unexpected key(s) in state_dict`), and a later edit of one copy alone turns
    it into TIE101.

    ## How to fix it
    Nothing has to be done. To save the space, delete the copies from the checkpoint. Do not set the flag to
    false to silence a strict loader: that unties the model.
    """

    code = "TIE106"
    summary = "declared tied, stored twice, identical: strict loaders refuse it, disk is wasted"
    severity = "info"
    messages = (
        "KeyError: 'lm_head.weight'",
        "Received 1 parameters not in model: lm_head.weight",
        'Unexpected key(s) in state_dict: "lm_head.weight"',
        "There is no module or parameter named 'lm_head'",
    )
    threads = (
        "vllm-project/vllm#6758 vllm-project/vllm#3344 sgl-project/sglang#2935 ml-explore/mlx-lm#1298 "
        "meta-pytorch/torchtune#1688"
    )

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            refusing = losing_views(views_of(group, loaders))
            yield from uncompared_reasons(group, tied=True)
            if not tied_by_intent(group) or group.stored != "copy":
                continue
            kept = group.source if group.source in group.stored_names else group.stored_names[0]
            extra = tuple(n for n in group.stored_names if n != kept)
            wasted = sum(t.nbytes for t in group.tensors if t.name in extra)
            nan = group.comparison is not None and group.comparison.nan
            from tiecheck.rules.stored.fixes import drop_edits

            yield Draft(
                f"{listed(group.stored_names)} are declared as one tensor and stored {len(group.stored_names)} times "
                f"with equal {'bytes' if group.comparison is None or group.comparison.equal else 'values'}; "
                f"{size(wasted)} could be saved. {' '.join(_consequences(refusing, nan=nan))}",
                group.stored_names,
                (*stored_places(group, primary=True), declaration_place(group, "related")),
                f"{_NEEDED if refusing else _ONCE if nan else _OPTIONAL}. Do not set the flag to false.",
                confidence=guess_confidence(group),
                severity="warning" if nan or any(view.outcome in RANDOM for view in refusing) else None,
                hurts=refusing or None,
                edits=drop_edits(group, kept),
                no_mend="they are packed, and other tensors belong to each of them.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, group_facts, llama_group, row_comparison

        both = llama_group(stored=PAIR)._replace(stored="copy", comparison=row_comparison())
        yield Case("stored twice and equal", group_facts(both), finds=("info",))
        odd = both._replace(comparison=row_comparison()._replace(nan=True))
        yield Case("equal, with a NaN in both", group_facts(odd), finds=("warning",))
        yield Case("stored once", group_facts(llama_group()))
        yield Case("a pickle keeps the sharing", group_facts(both._replace(stored="storage", comparison=None)))
        yield Case("untied and equal is another rule's matter", group_facts(both._replace(declared=False)))


def _consequences(refusing: tuple[LoaderView, ...], *, nan: bool) -> Iterator[str]:
    """Yield what comes of a NaN in both, and which loaders of the matrix do not take the second name."""
    if nan:
        yield _NAN
    if refusing:
        yield f"The second name is refused. {endings_text(refusing)}"
    elif not nan:
        yield "Every loader that is known takes it; stricter ones refuse the second name."


class FlattenedTie(Rule):
    """Nobody declares the group as tied, and its members are stored with equal bytes.

    ## What it does
    Finds groups that are not declared as tied, stored twice, identical, and not one constant value. The groups
    are those the class can tie; for a class that is not known, embedding and head by name and shape.

    ## Why it is bad
    The usual cause is an export that wrote a tied model out and lost the flag. The model gives the same output as
    before; it holds the matrix twice, and training it further lets the two drift apart. Where the architecture
    ties by default, losing the tie is unlikely to be meant: then it is a warning. Right after a deliberate untie
    the two are equal as well, and nothing is wrong.

    ## How to fix it
    If the model is meant to be tied, set `tie_word_embeddings` to true and drop the copy. If it is meant to be
    untied, leave it: the finding goes away once the two have been trained apart.
    """

    code = "TIE109"
    summary = "not declared tied, stored twice, identical: a tie that an export has flattened"
    severity = "info"
    threads = "facebookresearch/fairseq2#1064 facebookresearch/fairseq2#1102"

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            yield from uncompared_reasons(group, tied=False)
            if group.declared or group.stored != "copy" or group.comparison is None or group.comparison.constant:
                continue
            if len(group.tensors[0].shape) < 2:
                continue  # equal biases are what a default draw leaves behind
            if group.declared is None and not group.inferred:
                yield Unknown(f"{listed(group.stored_names)} are equal, and who decides is not clear: {group.reason}")
                continue
            says = (
                f"{declarer_text(group)} that they are not tied"
                if group.declared is False
                else "nobody says that they are tied"
            )
            usual = ", although the class ties them by default" if group.default else ""
            from tiecheck.rules.stored.fixes import flattened_tie

            yield Draft(
                f"{listed(group.stored_names)} are stored with equal bytes, and {says}{usual}. They take their memory "
                "twice, and training drives them apart.",
                group.stored_names,
                (
                    *stored_places(group, primary=True),
                    *((declaration_place(group, "related"),) if group.declared_by else ()),
                ),
                "If it is not meant to be tied, nothing is wrong.",
                severity="warning" if group.default else None,
                confidence=guess_confidence(group),
                edits=flattened_tie(group, groups, flags_to_set(group, views_of(group, loaders))),
                no_mend="no flag of the class ties these two and nothing else; a tie has to be made in its code.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, group_facts, llama_group, row_comparison

        both = llama_group(value=False, stored=PAIR)._replace(stored="copy", comparison=row_comparison())
        yield Case("flag false, equal bytes", group_facts(both), finds=("info",))
        yield Case(
            "the same where the class ties by default", group_facts(both._replace(default=True)), finds=("warning",)
        )
        guessed = both._replace(declared=None, declared_by=(), flag=None, default=None, inferred=True)
        yield Case("a class nobody knows, equal by name and shape", group_facts(guessed), finds=("info",))
        unclear = both._replace(declared=None, declared_by=(), flag=None, reason="the flags are at other levels")
        yield Case("nobody knows which flag decides", group_facts(unclear), unknown=True)
        yield Case("all zeros mean nothing", group_facts(both._replace(comparison=row_comparison(constant=True))))
        yield Case("untied and different", group_facts(both._replace(stored="separate")))
        yield Case("declared and equal is a redundant copy", group_facts(both._replace(declared=True)))
