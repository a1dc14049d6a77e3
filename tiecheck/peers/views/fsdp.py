"""FSDP (torch 2.13.0): groups of one `Parameter` object within one unit, as one unit on the root would see them.

FSDP2 (`fully_shard`) gives the sharded parameter to every place in its unit that held the same object, and to no other,
so that a model that is sharded already shows by identity what its units saw. FSDP1 notes it in each flat parameter;
that part runs in the tests, the wrapper around it was read in source only, since it refuses to run without an
accelerator. Both refuse modules on other grounds (strides, lazy parameters, containers), which is no view of a tie.
"""

from __future__ import annotations

from typing import Any

from tiecheck.peers.views.sight import Peer, Seen, Sight, united

_WRAPPER = "_fsdp_wrapped_module."
"""What FSDP1's own `named_parameters()` leaves out of names."""


def _one_unit(sight: Sight) -> Seen:
    return Seen(sight.tied)


def _flat(sight: Sight) -> Seen:
    """The shared parameters that the flat parameters of a wrapped model note; else what one unit would."""
    if not sight.of_class("FullyShardedDataParallel"):
        return Seen(sight.tied)
    pairs = []
    for number, module in enumerate(sight.graph.modules):
        handle: Any = getattr(module, "_handle", None)
        for info in getattr(getattr(handle, "flat_param", None), "_shared_param_infos", ()):
            kept = (info.prim_module_name, info.prim_param_name)
            places = [".".join(filter(None, place)) for place in (kept, (info.module_name, info.param_name))]
            pairs.append([(sight.graph.path(number, "") + place).replace(_WRAPPER, "") for place in places])
    return Seen(united(pairs))


PEERS = (
    Peer("torch", "FullyShardedDataParallel", "2.13", _flat),
    Peer("torch", "fully_shard", "2.13", _one_unit),
)
"""Its functions."""
