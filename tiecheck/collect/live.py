"""The live layer: what an `nn.Module` really holds, and what its class says about it.

`find_ties` and `collect_live` change nothing, read no values except to tell a copy from a separate tensor,
and finish on registered cycles, on aliased chains and on tensors that have no memory.
"""

from __future__ import annotations

from torch import nn

from tiecheck.collect.alias_graph import COUNT_LIMIT, Registrations
from tiecheck.collect.live_aliases import aliases_of
from tiecheck.collect.live_declared import declared_ties
from tiecheck.collect.live_pause import paused_collector
from tiecheck.collect.live_ties import ties_of
from tiecheck.collect.transformers_adapter import declarations
from tiecheck.facts_live import LiveModel, Tie

__all__ = ["CAP", "collect_live", "find_ties"]

CAP = 32
"""Names a group lists; `names_total` says how many there are."""


def find_ties(module: nn.Module, *, buffers: bool = False, cap: int = CAP) -> tuple[Tie, ...]:
    """The groups of parameters of a module that share a module, a `Parameter` or memory.

    Args:
        module: Any module; on meta, lazy, wrapped or sharded too. It is not changed.
        buffers: Whether to add groups of buffers (`Tie.buffer`), and of a parameter with a buffer.
        cap: Names a group lists at most, the first in order.

    Returns:
        Groups by first name, names sorted; in names and membership what
        `named_parameters(remove_duplicate=False)` (torch 2.13) gives, where that finishes, plus shared memory.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        ValueError: If `cap` is below 2.
    """
    if cap < 2:  # a group has two names
        raise ValueError(f"cap must be at least 2, not {cap}")
    with paused_collector():
        return ties_of(Registrations(module, buffers=buffers), cap)


def collect_live(module: nn.Module, *, origin: str) -> LiveModel:
    """The facts of a live module.

    Args:
        module: Any module; it is not changed.
        origin: How it came to be: `given`, `built on meta`, `loaded`.

    Returns:
        Ties, aliases, and for each `PreTrainedModel` in it what its class declares (see `transformers_adapter`).

    Raises:
        TypeError: If `module` is no `nn.Module`.
    """
    with paused_collector():
        places = Registrations(module, buffers=False)
        graph = places.graph
        said = declarations(graph, CAP)
        return LiveModel(
            class_name=type(module).__name__,
            origin=origin,
            ties=ties_of(places, CAP),
            aliases=aliases_of(graph, CAP),
            declared=declared_ties(module, said.groups),
            candidates=said.candidates,
            flag=said.flag,
            library=said.library,
            reasons=said.reasons,
            parameters=len(places.firsts),
            names=_names_total(places),
        )


def _names_total(places: Registrations) -> int | None:
    """How many parameter names there are."""
    if not places.graph.aliased():
        return len(places.objects)
    total = 0
    for owner in places.owners:
        paths = places.graph.paths(owner)
        if paths is None:
            return None
        total += paths
    return min(total, COUNT_LIMIT)
