"""The words of the design: the kinds of a tie, the outcomes of a load, and `Unknown`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from tiecheck.records.record import Record

Kind = Literal["module", "parameter", "storage", "overlap", "copy", "separate", "absent", "unknown"]
"""Ways in which the members of a tie group hang together; `docs/how-tying-breaks.md` explains each word."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Every kind, strongest first."""

TIED: frozenset[Kind] = frozenset({"module", "parameter"})
"""The kinds in which a write through one name is seen through every other, gradient included."""

UNTIED: frozenset[Kind] = frozenset({"storage", "overlap", "copy", "separate"})
"""The kinds in which the members are different parameters, whatever they look like."""


def weakest_kind(kinds: Iterable[Kind]) -> Kind:
    """Return the weakest of some kinds: a group is as strong as the weakest link that holds it together."""
    return max(kinds, key=KINDS.index)


class Unknown(Record):
    """A fact that could not be had. A rule that needs it becomes a Skip with this reason."""

    reason: str
    """Reason, in words that can stand after "skipped: "."""


Outcome = Literal[
    "tied",
    "kept-apart",
    "head-discarded",
    "member-discarded",
    "head-random",
    "embedding-random",
    "member-random",
    "crash",
    "unknown",
]
"""Ends of one stored group in a loader: `tied` (one tensor, nothing lost), `kept-apart` (each member as it is
stored), `head-discarded` (tied, and the stored head, which differs, is thrown away), `head-random` and
`embedding-random` (not loaded, and nothing ties it to what is), `member-discarded` and `member-random` (the same for
groups that are no embedding and head), `crash`, `unknown`."""

DISCARDED: frozenset[Outcome] = frozenset({"head-discarded", "member-discarded"})
"""The outcomes in which a stored tensor is thrown away."""

RANDOM: frozenset[Outcome] = frozenset({"head-random", "embedding-random", "member-random"})
"""The outcomes in which a tensor is made anew."""

HURTS: frozenset[Outcome] = DISCARDED | RANDOM | {"crash"}
"""The outcomes that cost somebody something."""

LONE_ENDINGS = (".gguf", ".onnx")
"""Endings of files that are targets of their own, in any case; a config beside them is no model's."""
