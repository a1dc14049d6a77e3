"""torch itself (2.13.0): the names it leaves out as duplicates, and what `functional_call` takes for tied."""

from __future__ import annotations

from typing import Any

from tiecheck.peers.views import paths
from tiecheck.peers.views.sight import Peer, Seen, Sight, ordered


def _identity(sight: Sight) -> Seen:
    return Seen(sight.tied)


def _run_identity(sight: Sight) -> Seen:
    sight.runnable()
    kept = {id(parameter): [name] for name, parameter in sight.module.named_parameters()}
    for name, parameter in sight.module.named_parameters(remove_duplicate=False):
        if name != kept[id(parameter)][0]:
            kept[id(parameter)].append(name)
    return Seen(ordered(names for names in kept.values() if len(names) > 1))


def _with_buffers(sight: Sight) -> Seen:
    """Parameters and buffers in one table, by object."""
    paths.check(sight.extent())
    return Seen(ordered(paths.named(sight.graph, buffers=True)))


def _run_functional(sight: Sight) -> Seen:
    """Give a value for one name of each tensor, and see which other names get it too."""
    from torch.nn.utils.stateless import _untie_named_tensors_map

    sight.runnable()
    module = sight.module
    first: dict[int, str] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        first.setdefault(id(tensor), name)
    given: dict[str, Any] = {name: object() for name in first.values()}
    groups: dict[int, list[str]] = {}
    for name, value in _untie_named_tensors_map(module, given).items():
        groups.setdefault(id(value), []).append(name)
    return Seen(ordered(names for names in groups.values() if len(names) > 1))


PEERS = (
    Peer("torch", "named_parameters", "2.13", _identity, _run_identity),
    Peer("torch", "functional_call", "2.13", _with_buffers, _run_functional),
)
"""Its functions."""
