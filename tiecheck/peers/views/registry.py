"""Asks every other tool what it takes for tied in a live module: one file a tool, registered here.

Each tool's own way of looking is reproduced, in time that grows with the names, and also where the tool itself raises
or never ends. With `run` the installed tools are really run beside that.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from tiecheck.peers.views.differences import would_warn
from tiecheck.records.report import View

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.peers.views.tool_functions import ToolFunction, WalkedModule

MODULES = ("accelerate", "transformers", "safetensors", "lightning", "torch", "peft")
"""The modules beside this one that hold `PEERS`, in the order of the views."""


def ask_tools(module: nn.Module, *, run: bool = False, tools: Collection[str] = MODULES) -> tuple[View, ...]:
    """Ask each of some tools what it takes for tied in a live module, of any sort, which is not changed.

    There is a view for each function and algorithm, in the order of `MODULES`. `run` has the installed tools run as
    well, each behind its reproduction; without it none is imported. A tool that raises, or would not end, has that in
    `error`. transformers and PEFT have views only where they would look at the module at all. What is no module is a
    `TypeError`.
    """
    from tiecheck.live.registrations import paused_collector
    from tiecheck.peers.views.tool_functions import WalkedModule, view_by_reproduction, view_by_tool

    found: list[View] = []
    with paused_collector(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tool's warnings are not the caller's
        sight = WalkedModule(module)
        for peer in _peers(sight, tools):
            found.append(view_by_reproduction(peer, sight))
            installed = _installed(peer) if run and peer.run is not None else None
            if installed is not None:
                found.append(view_by_tool(peer, sight, installed))
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
