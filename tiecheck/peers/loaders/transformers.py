"""transformers 4.57 and 5: the two that were run against every cell of the matrix."""

from __future__ import annotations

from tiecheck.facts import TieSpec
from tiecheck.peers.loaders.situation import Decision, Loader, Policy, Situation, settle, stored_of

FIVE = Policy(
    differ=(
        "kept-apart",
        "The tied weights mapping and config for this model specifies to tie ..., but both are present in the "
        "checkpoints with different values, so we will NOT tie them.",
    ),
    shapes=(
        "crash",
        "You set `ignore_mismatched_sizes` to `False`, thus raising an error. For details look at the above report!",
    ),
)

OLD = Policy(
    differ=("head-discarded", None),
    no_source=("crash", "both members stay on the meta device without a word, and the first forward pass fails"),
)


def _five(situation: Situation) -> Decision:
    """By the resolved group: its declaration is what transformers 5 reads."""
    group = situation.group
    reads = ".".join((*group.level, "tie_word_embeddings"))
    value = bool(group.flag.value) if group.flag is not None and isinstance(group.flag.value, bool) else None
    outcome, message = settle(group.declared, stored_of(group), FIVE)
    return Decision(outcome, message, reads, value, group.declared)


LOADERS = (Loader("transformers", "5", (5,), None, "run", _five),)
