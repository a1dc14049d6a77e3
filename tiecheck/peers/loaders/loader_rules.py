"""Defines what a loader of the matrix is given, and what it answers.

A loader is one small function from a `Situation` to a `Decision`: it reads the flag it reads, says whether it ties,
and `outcome_of` turns that and what is stored into an outcome by the loader's `Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.record import Record
from tiecheck.records.stored import Group
from tiecheck.records.words import Outcome


class Situation(Record):
    """One tie group of one checkpoint, with everything that a loader could look at."""

    config: ModelConfig | None
    architecture: Architecture
    """The class, by the installed tie table."""
    group: Group
    """The group as transformers 5 names and resolves it, with its stored state."""
    older: tuple[Group, ...] | str | None
    """The groups of transformers 4.57's class that share a member with it, by its own names; or why none is known; None
    where 4.57 does not have the class."""

    @property
    def head(self) -> bool:
        """True if the group is the token embedding and the language-model head: all that engines know of tying."""
        here = set(self.group.names)
        return self.group.inferred or (self.architecture.head in here and self.architecture.embedding in here)


class Decision(Record):
    """Answer of one loader to a situation; the fields of `LoaderView` that are the loader's own."""

    outcome: Outcome
    message: str | None = None
    reads: str | None = None
    value: bool | None = None
    ties: bool | None = None
    lost: tuple[str, ...] = ()


class Loader(Record):
    """One loader in one range of versions."""

    name: str
    """The package's name, as `--for` takes it."""
    versions: str
    """The range in words, e.g. `4.57`, `<0.25`; empty where one reading covers every version."""
    since: tuple[int, ...]
    """The first version it holds for."""
    until: tuple[int, ...] | None
    """The first version it does not hold for; None while the newest behaves so."""
    checked: Literal["run", "source"]
    """True if the loader itself was run in tests, or its source read."""
    decide: Callable[[Situation], Decision | None]
    """Function that answers a situation; None where the loader has nothing to do with such a group or class."""


class StoredMembers(Record):
    """State of a group in a checkpoint."""

    source: bool
    """True if the source is stored."""
    targets: bool
    """True if every other member is stored."""
    some: bool
    """True if any member is stored."""
    alike: bool | None
    """True if the stored members are equal in shape and bytes; None where that was not read; True for a single one."""
    shapes: bool
    """True if the stored members have one shape, or shapes that the class has for them."""


def stored_of(group: Group, dtype: object = None) -> StoredMembers:
    """Return the stored state of a group; members of several dtypes are held together in the one they are loaded in."""
    missing = set(group.missing)
    alike = {"copy": True, "storage": True, "absent": True, "separate": False}.get(group.stored or "absent")
    if group.stored == "separate" and group.comparison is None:
        alike = _after_cast(group, dtype)
    return StoredMembers(
        source=group.source is not None and group.source not in missing and bool(group.stored_names),
        targets=not missing - {group.source} and group.names != (group.source,),  # one that is guessed may be alone
        some=bool(group.stored_names),
        alike=alike,
        shapes=group.unlike or group.packed or len({tensor.shape for tensor in group.tensors}) < 2,
    )


def _after_cast(group: Group, dtype: object) -> bool | None:
    """Tell whether members of two dtypes, of which one is the other rounded, are equal in another; None if unknown."""
    dtypes = {tensor.dtype for tensor in group.tensors}
    if group.relation is None or group.relation.form != "cast" or dtype not in ("float32", "float16", "bfloat16"):
        return None
    if group.relation.exact or (len(dtypes) == 2 and dtypes <= {dtype, "float32", "float64"} and dtype != "float32"):
        return True
    return False if dtype == "float32" and len(dtypes) == 2 else None


def stored_pair(situation: Situation) -> StoredMembers:
    """Return the stored state of embedding and head alone, which is all that an engine looks at in a larger group."""
    group, known = situation.group, situation.architecture
    stored = stored_of(group)
    if len(group.names) < 3:
        return stored
    return stored._replace(source=known.embedding not in group.missing, targets=known.head not in group.missing)


class Policy(Record):
    """Outcomes in a loader where tie and stored tensors do not fit; each with what it prints or raises."""

    differ: tuple[Outcome, str | None] = ("head-discarded", None)
    """It ties, and the stored members differ."""
    equal: tuple[Outcome, str | None] = ("tied", None)
    """It ties, and the members are stored with equal bytes."""
    no_source: tuple[Outcome, str | None] = ("tied", None)
    """It ties, and only targets are stored."""
    no_target: tuple[Outcome, str | None] = ("tied", None)
    """It ties, and only the source is stored: the normal form."""
    nothing: tuple[Outcome, str | None] = ("embedding-random", None)
    """It ties, and no member is stored."""
    shapes: tuple[Outcome, str | None] = ("crash", "size mismatch")
    """It ties, and the stored members differ in shape."""
    lost_target: tuple[Outcome, str | None] = ("head-random", None)
    """It does not tie, and a target is not stored."""
    lost_source: tuple[Outcome, str | None] = ("embedding-random", None)
    """It does not tie, and the source is not stored."""


UNREAD = "the stored members were not compared"
UNLIKE = "the members differ in shape, which the class may be made for where they are not tied"


def outcome_of(ties: bool | None, stored: StoredMembers, policy: Policy) -> tuple[Outcome, str | None]:
    """Return the outcome for what a loader takes a stored group for; None where that is not known."""
    if ties is None:
        return "unknown", "whether it ties the group is not known"
    return _tied(stored, policy) if ties else _untied(stored, policy)


def _untied(stored: StoredMembers, policy: Policy) -> tuple[Outcome, str | None]:
    if not stored.shapes:
        return "unknown", UNLIKE
    if stored.source and stored.targets:
        return "kept-apart", None
    return policy.lost_target if stored.source else policy.lost_source


def _tied(stored: StoredMembers, policy: Policy) -> tuple[Outcome, str | None]:
    if not stored.some:
        return policy.nothing
    if not stored.shapes:
        return policy.shapes
    if stored.alike is None:
        return policy.equal if policy.equal == policy.differ else ("unknown", UNREAD)
    if not stored.alike:
        return policy.differ
    if not stored.source:
        return policy.no_source
    return policy.equal if stored.targets else policy.no_target


GENERAL: dict[Outcome, Outcome] = {
    "head-discarded": "member-discarded",
    "head-random": "member-random",
    "embedding-random": "member-random",
}
"""Outcome of an embedding and head -> the word for any other group."""


def in_group_words(decision: Decision, situation: Situation) -> Decision:
    """Word a decision in the words of its group: only an embedding and head have a head to lose."""
    if situation.head:
        return decision
    return decision._replace(outcome=GENERAL.get(decision.outcome, decision.outcome))


def worst_decision(decisions: Iterable[Decision]) -> Decision:
    """Return the decision that costs most, the first among equals; the others are parts of the same group."""
    order: tuple[Outcome, ...] = (
        *("crash", "embedding-random", "head-random", "member-random", "head-discarded", "member-discarded"),
        *("unknown", "kept-apart", "tied"),
    )
    return min(decisions, key=lambda d: order.index(d.outcome))
