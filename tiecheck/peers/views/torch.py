"""torch itself (2.13.0): the names it leaves out as duplicates, and what `functional_call` and FSDP take for tied.

FSDP: groups of one `Parameter` object within one unit, as one unit on the root would see them. FSDP2 (`fully_shard`)
gives the sharded parameter to every place in its unit that held the same object, and to no other, so that a model that
is sharded already shows by identity what its units saw. FSDP1 notes it in each flat parameter; that part runs in the
tests, the wrapper around it was read in source only, since it refuses to run without an accelerator. Both refuse
modules on other grounds (strides, lazy parameters, containers), which is no view of a tie.
"""

from __future__ import annotations

from typing import Any

from tiecheck.peers.views.module_walks import names_by_key
from tiecheck.peers.views.tool_functions import (
    ToolAnswer,
    ToolFunction,
    WalkedModule,
    groups_from_pairs,
    one_object,
    ordered_groups,
)

_WRAPPER = "_fsdp_wrapped_module."
"""Part that FSDP1's own `named_parameters()` leaves out of names."""


def _functional(sight: WalkedModule) -> ToolAnswer:
    """Give a value for one name of each tensor, and see which other names get it too."""
    from torch.nn.utils.stateless import _untie_named_tensors_map

    sight.runnable()
    module = sight.module
    first: dict[int, str] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        first.setdefault(id(tensor), name)
    given: dict[str, Any] = {name: object() for name in first.values()}
    return ToolAnswer(
        ordered_groups(names_by_key((id(v), name) for name, v in _untie_named_tensors_map(module, given).items()))
    )


def _flat(sight: WalkedModule) -> ToolAnswer:
    """See the shared parameters that the flat parameters of a wrapped model note; else what one unit would."""
    if not sight.of_class("FullyShardedDataParallel"):
        return ToolAnswer(sight.tied)
    pairs = []
    for number, module in enumerate(sight.graph.modules):
        handle: Any = getattr(module, "_handle", None)
        for info in getattr(getattr(handle, "flat_param", None), "_shared_param_infos", ()):
            kept = (info.prim_module_name, info.prim_param_name)
            places = [".".join(filter(None, place)) for place in (kept, (info.module_name, info.param_name))]
            pairs.append([(sight.graph.path(number, "") + place).replace(_WRAPPER, "") for place in places])
    return ToolAnswer(groups_from_pairs(pairs))


PEERS = (
    ToolFunction("torch", "named_parameters", "2.13", one_object),
    ToolFunction("torch", "functional_call", "2.13", run=_functional),
    ToolFunction("torch", "FullyShardedDataParallel", "2.13", _flat),
    ToolFunction("torch", "fully_shard", "2.13", one_object),
)
