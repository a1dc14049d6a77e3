"""Holds what a tool takes for tied against what is tied: plain data in and out, without torch or the tools."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.peers.loaders.accelerate import WARNERS
from tiecheck.records.record import Record
from tiecheck.records.report import TieEntry, View
from tiecheck.records.words import TIED, Kind

FIND = "find_tied_parameters"
CHECK = "check_tied_parameters_in_config"


class UntiedGroup(Record):
    """A group that a tool sees and that is not tied."""

    names: tuple[str, ...]
    """Its names, sorted."""
    kind: Kind | None
    """Kind that its names really have together; null where nothing holds them."""


class ViewDifference(Record):
    """A view beside the truth. Where both are empty the tool sees what is there."""

    missed: tuple[tuple[str, ...], ...]
    """The tied groups that it does not see, each with the names that it does not put together."""
    more: tuple[UntiedGroup, ...]
    """The groups that it sees and that are not tied, or hold names that are not."""


def would_warn(views: Iterable[View]) -> tuple[str, ...]:
    """Return the versions of accelerate that say "The model weights are not tied", right or not; oldest first.

    They say so where the config asks for a tie and not one group is found anywhere in the model.
    """
    here = {(v.function, v.algorithm): v for v in views if v.tool == "accelerate" and not v.ran}
    found = []
    for versions, checks, finds in WARNERS:
        asked, seen = here.get((CHECK, checks)), here.get((FIND, finds))
        if asked is not None and asked.says and seen is not None and seen.error is None and not seen.groups:
            found.append(versions)
    return tuple(found)


def compare_view(ties: Iterable[TieEntry], view: View) -> ViewDifference:
    """Hold a view against the ties of a live module: what it misses, and what it sees beyond the truth.

    The groups that are tied in the live module are the truth. Of one with more names than are listed only those count.
    """
    live = [tie for tie in ties if tie.kind_from == "live" and tie.kind is not None]
    true = [tie for tie in live if tie.kind in TIED]
    seen = {name: i for i, group in enumerate(view.groups) for name in group}
    missed = [tie.names for tie in true if len({seen.get(name, name) for name in tie.names}) > 1]
    home = {name: i for i, tie in enumerate(true) for name in tie.names}
    more = []
    for group in view.groups:
        homes = {home.get(name) for name in group}
        capped = any(i is not None and true[i].names_total != len(true[i].names) for i in homes)
        if homes == {None} or len(homes - {None} if capped else homes) > 1:
            more.append(UntiedGroup(group, next((tie.kind for tie in live if set(group) <= set(tie.names)), None)))
    return ViewDifference(tuple(missed), tuple(more))
