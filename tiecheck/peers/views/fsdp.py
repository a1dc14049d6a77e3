"""FSDP, as one unit on the root would see it (torch 2.13.0): groups of one `Parameter` object within one unit.

FSDP2 (`fully_shard`) gives the sharded parameter to every place in its unit that held the same object, and to no other,
so that a model that is sharded already shows by identity what its units saw. FSDP1 keeps that per flat parameter; it
was read in source only, since it refuses to run without an accelerator.
"""

from __future__ import annotations

from typing import Any

from tiecheck.peers.views.sight import Peer, Seen, Sight, united


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
            prefix = sight.graph.path(number, "")
            name, _, path, kept_name, _, kept_path = info
            pairs.append([prefix + ".".join(filter(None, p)) for p in ((kept_path, kept_name), (path, name))])
    return Seen(united(pairs))


PEERS = (
    Peer("torch", "FullyShardedDataParallel", "2.13", _flat),
    Peer("torch", "fully_shard", "2.13", _one_unit),
)
"""Its functions."""
