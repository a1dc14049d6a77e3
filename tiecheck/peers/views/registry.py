"""Asks every other tool what it takes for tied in a live module: one file a tool, registered here.

The installed tools are run. What goes by objects alone, and what releases of accelerate see that are not installed, is
reproduced, in time that grows with the names.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from tiecheck.peers.loaders.accelerate import WARNERS
from tiecheck.records.record import Record
from tiecheck.records.report import TieEntry, View
from tiecheck.records.words import TIED, Kind

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.peers.views.tool_functions import ToolFunction, WalkedModule


MODULES = ("accelerate", "transformers", "safetensors", "lightning", "torch", "peft")
"""The modules beside this one that hold `PEERS`, in the order of the views."""


def ask_tools(module: nn.Module, *, run: bool = False, tools: Collection[str] = MODULES) -> tuple[View, ...]:
    """Ask each of some tools what it takes for tied in a live module, of any sort, which is not changed.

    There is a view for each function and algorithm, in the order of `MODULES`. `run` has the installed tools run,
    behind a reproduction where there is one; without it none is imported. A tool that raises, or would not end, has
    that in `error`. transformers and PEFT have views only where they would look at the module at all. What is no
    module is a `TypeError`.
    """
    from tiecheck.files.local import paused_collector
    from tiecheck.peers.views.tool_functions import WalkedModule, view_of

    found: list[View] = []
    with paused_collector(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tool's warnings are not the caller's
        sight = WalkedModule(module)
        for peer in _peers(sight, tools):
            if peer.look is not None:
                found.append(view_of(peer, peer.look, sight, None))
            installed = _installed(peer) if run else None
            if installed is not None and peer.run is not None:
                found.append(view_of(peer, peer.run, sight, installed))
    return tuple(found)


def _peers(sight: WalkedModule, tools: Collection[str]) -> Iterable[ToolFunction]:
    for name in tools:
        peers: tuple[ToolFunction, ...] = import_module(f"tiecheck.peers.views.{name}").PEERS
        yield from (peer for peer in peers if peer.asks(sight))


def _installed(peer: ToolFunction) -> str | None:
    """Return the installed version of a tool; None where it is not installed or has another algorithm."""
    try:
        text = version(peer.tool).partition("+")[0]  # not which build of torch it is
    except PackageNotFoundError:
        return None
    numbers = tuple(int(part) for part in text.split(".") if part.isdecimal())
    return text if peer.since <= numbers and (peer.until is None or numbers < peer.until) else None


__all__ = ["ask_tools", "would_warn"]


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
