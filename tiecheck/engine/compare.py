"""The ties of two targets side by side: before and after a save, a merge, a conversion; a tiny model and its reference.

A group is compared by what is known of it on both sides. What a tie means is compared, not how it is written: one
stored tensor and two equal ones are the same tie where the config declares it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tiecheck.config.options import Config
from tiecheck.engine.entries import entry_of_tie
from tiecheck.engine.run import check_target, read_ties
from tiecheck.errors import OutOfTimeError, TargetError
from tiecheck.facts.registry import Facts
from tiecheck.files.compare.spans import OpaqueError, opened_members
from tiecheck.files.limits import Account, current
from tiecheck.records.fleet import Difference, TieChange, TieComparison
from tiecheck.records.report import TargetReport, TieEntry
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import TIED, Kind
from tiecheck.rules.stored.groups import rows_text
from tiecheck.targets.parse import Target, given_path

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.files.compare.reshaped import Opened
    from tiecheck.records.live import Tie

    Compared = str | os.PathLike[str] | nn.Module | Sequence[Tie]


NOT_KNOWN = "it is on one side alone, and not known to be tied there"


class Side(NamedTuple):
    """One of the two targets."""

    label: str
    """The target as it was given."""
    ties: tuple[TieEntry, ...]
    checkpoint: Checkpoint | None = None
    """Its stored tensors, where it has them."""
    module: nn.Module | None = None
    """The live module, where there is one and nothing is stored."""

    def lacks(self, tie: TieEntry) -> bool:
        """Tell whether a group has a member that is known to be nowhere on this side."""
        if self.checkpoint is not None:
            return not {*(tie.stored_names or tie.names)} <= {*self.checkpoint.names()}
        if self.module is None:
            return False
        from tiecheck.live.member_lookup import look_up
        from tiecheck.live.registrations import looking_at

        with looking_at(self.module):
            return any(look_up(self.module, name).owner is None for name in tie.names)

    def members(self, tie: TieEntry) -> tuple[str, ...]:
        """Return the names of a group under which this side has values."""
        if self.checkpoint is not None:
            return tie.stored_names
        return tie.names if self.module is not None else ()

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Opened]:
        """Give a tensor with its bytes, or raise `OpaqueError` where they cannot be looked at."""
        if self.module is not None:
            from tiecheck.live.memory import open_tensor
            from tiecheck.live.registrations import looking_at

            with looking_at(self.module, own="tiecheck.live.memory"):  # what it cannot read it says itself
                opened = open_tensor(self.module, name)
            yield opened
            return
        assert self.checkpoint is not None  # noqa: S101  # one of the two has members
        tensor = self.checkpoint.tensor(name)
        if tensor is None:
            raise OpaqueError(f"{name} is in {self.checkpoint.why_absent}")
        if self.checkpoint.remote is not None:
            raise OpaqueError(f"{name} is on a remote store, of which no values are compared with another's")
        with opened_members(self.checkpoint, (tensor,)) as (span,):
            yield tensor, span


def compare_targets(before: Compared, after: Compared, config: Config) -> TieComparison:
    """Compare the ties of two targets, and unless `config.values` is `never` their shapes and values.

    What cannot be read, or has ties that cannot be told, raises a `TiecheckError`.
    """
    a, b = _side(before, config), _side(after, config)
    account = Account(config.timeout)
    token = current.set(account)
    try:
        changes = [_change(a, b, one, other, config) for one, other in _pairs(a.ties, b.ties)]
        account.check_files()
    except OutOfTimeError:
        raise TargetError(f"to compare the values takes more than {account.seconds:g} s (--timeout)") from None
    finally:
        current.reset(token)
    lists: dict[str, list[TieChange]] = {"lost": [], "made": [], "changed": [], "same": []}
    for change in sorted(changes, key=lambda change: change.names):
        lists[_sort(change)].append(change)
    different = any(lists[word] for word in ("lost", "made", "changed"))
    untold = any(change.untold for change in changes)
    found = {word: tuple(held) for word, held in lists.items()}
    equal = False if different else None if untold else True
    return TieComparison(a.label, b.label, **found, equal=equal, only_before=_alone(a, b), only_after=_alone(b, a))


def _alone(side: Side, other: Side) -> tuple[str, ...]:
    """Return the names that one side stores and the other does not, without those of a group."""
    if side.checkpoint is None or other.checkpoint is None:
        return ()
    grouped = {name for tie in (*side.ties, *other.ties) for name in (*tie.names, *tie.stored_names)}
    return tuple(sorted({*side.checkpoint.names()} - {*other.checkpoint.names()} - grouped))


def _side(given: Compared, config: Config) -> Side:
    """Read one target; of the ties that `find_ties` has given there is nothing to read."""
    path = given_path(given)
    if path is None and issubclass(type(given), Sequence):
        ties = cast("Sequence[Tie]", given)
        return Side("the ties given", tuple(entry_of_tie(tie) for tie in ties if not tie.buffer))
    held: dict[str, Any] = {}

    def read(target: Target, facts: Facts, config: Config) -> TargetReport:
        held["checkpoint"] = facts.known("checkpoint")
        built = facts.known("built") if held["checkpoint"] is None else None
        held["module"] = built.module if built is not None else None
        return read_ties(target, facts, config)

    report = check_target(given if path is None else path, config, read)  # type: ignore[arg-type]
    if report.errors:
        raise TargetError(report.errors[0].message, report.errors[0].path)
    return Side(report.target, report.ties, **held)


def _pairs(
    before: tuple[TieEntry, ...], after: tuple[TieEntry, ...]
) -> Iterator[tuple[TieEntry | None, TieEntry | None]]:
    """Give the groups that have most names in common together, then those that are left alone."""
    holder = {name: other.names for other in after for name in other.names}
    left = {other.names: other for other in after}
    for one in before:
        held = Counter(holder[name] for name in one.names if holder.get(name) in left)
        yield one, left.pop(held.most_common(1)[0][0]) if held else None
    for other in left.values():
        yield None, other


def _change(a: Side, b: Side, one: TieEntry | None, other: TieEntry | None, config: Config) -> TieChange:
    """Compare one group."""
    names = tuple(sorted({*(one.names if one else ()), *(other.names if other else ())}))
    if one is None or other is None:
        here = one or cast("TieEntry", other)
        tied, absent = _tied(here), (b if one else a).lacks(here)
        untold = NOT_KNOWN if tied is None and not absent else None
        return TieChange(names, one, other, ("names",) if tied or absent else (), None, untold)
    differs: list[Difference] = ["names"] if (one.names, one.names_total) != (other.names, other.names_total) else []
    known: dict[Difference, tuple[Any, Any]] = {
        "declared": (one.declared, other.declared),
        "kind": (_kind(one), _kind(other)),
        "stored": (_stored(one), _stored(other)),
    }
    if config.values != "never":
        known["shape"] = (one.shape, other.shape)
    differs += [word for word, (x, y) in known.items() if None not in (x, y) and x != y]
    if config.values == "never":
        return TieChange(names, one, other, tuple(differs), None, None)
    values: list[str] = []
    untold = _untold(one, other)
    if "shape" not in differs:
        try:
            alike, whole = _compare_values((a, b), one, other, values, exact=config.values == "always")
        except (OpaqueError, OSError, EOFError) as error:
            untold = str(error)
        else:
            differs += [] if alike else ["values"]
            untold = None if whole and alike else untold  # what holds between the same values is the same
    return TieChange(names, one, other, tuple(differs), "; ".join(values) or None, untold)


def _sort(change: TieChange) -> str:
    """Return the list that a group belongs to."""
    before, after = (entry is not None and _tied(entry) for entry in (change.before, change.after))
    if before is True and after is False:
        return "lost"
    if after is True and before is False:
        return "made"
    return "changed" if change.differs else "same"


def _tied(entry: TieEntry | None) -> bool | None:
    """Tell whether the names of a group are one tensor, once loaded; None where that is not known."""
    if entry is None:
        return False
    kind = _kind(entry)
    if kind is None:
        return entry.declared
    return kind in TIED


def _kind(entry: TieEntry) -> Kind | None:
    """Return how the names of a group hang together, once loaded: what is stored apart is not tied by a declaration."""
    if entry.kind_from != "live" and entry.declared and entry.stored == "separate":
        return "separate"
    return None if entry.kind == "unknown" else entry.kind


def _stored(entry: TieEntry) -> tuple[str, int] | None:
    """Return what is stored of a group; of a declared tie one tensor and equal ones are the same."""
    if entry.stored is None or entry.stored == "unknown":
        return None
    if entry.declared and entry.stored != "separate":
        return "one tensor", min(len(entry.stored_names), 1)
    return entry.stored, len(entry.stored_names)


def _untold(*entries: TieEntry) -> str | None:
    """Return why a fact about a group is not known on one side, where both have its layer."""
    if any(entry.stored == "unknown" for entry in entries) and all(entry.stored for entry in entries):
        return next(entry.reason or "what is stored is not known" for entry in entries if entry.stored == "unknown")
    return next((entry.reason or "the kind is not known" for entry in entries if entry.kind == "unknown"), None)


def _compare_values(
    sides: tuple[Side, Side], one: TieEntry, other: TieEntry, told: list[str], *, exact: bool
) -> tuple[bool, bool]:
    """Compare the tensors of a group: those of one name, or of a tie one of each side.

    Tells whether no value differs, and whether that was looked at for every member that either side has. `OpaqueError`,
    `EOFError` and `OSError` come from what cannot be read.
    """
    from tiecheck.files.compare.reshaped import compare_across

    mine, theirs = sides[0].members(one), sides[1].members(other)
    common = [(name, name) for name in mine if name in theirs]
    if _tied(one) and _tied(other):
        common = (common or [*zip(mine, theirs, strict=False)])[:1]
    alike = True
    for name, beside in common:
        with sides[0].opened(name) as first, sides[1].opened(beside) as second:
            found = compare_across(first, second, exact=exact)
        if found is None:
            how = f"{first[0].dtype} against {second[0].dtype}, and not that cast"
        elif found.alike:
            how = "equal" if found.form == "same" else f"equal, cast from {first[0].dtype} to {second[0].dtype}"
        else:
            how = rows_text(found)
        told.append(f"{name}: {how}")
        alike = alike and found is not None and found.alike
    return alike, bool(common) and set(mine) == set(theirs)
