"""Ties that FSDP2 has split: names of one parameter in several groups, by torch's own mark of the original.

torch 2.13 (`torch.distributed.fsdp._fully_shard`, private) numbers each original parameter (`_orig_param_uid`), and at
the first forward pass raises ValueError where a number stands in two groups. An older one has no such mark, and
nothing is told of it.
"""

from __future__ import annotations

from typing import Any

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import CAP


def split_by_sharding(graph: ModuleGraph) -> tuple[tuple[str, ...], ...]:
    """Return the names of each original parameter that stands in several groups, sorted."""
    numbers = {id(module): number for number, module in enumerate(graph.modules)}
    groups: dict[int, dict[int, list[str]]] = {}
    for module in graph.modules:
        for group in _groups(module):
            for held in getattr(group, "fsdp_params", ()):
                uid, place = getattr(held, "_orig_param_uid", None), getattr(held, "_module_info", None)
                number = numbers.get(id(getattr(place, "module", None)))
                if uid is None or place is None or number is None:
                    continue
                names = [prefix + place.param_name for prefix in graph.prefixes(number, CAP)]
                groups.setdefault(uid, {}).setdefault(id(group), []).extend(names)
    split = (tuple(sorted({n for names in held.values() for n in names})) for held in groups.values() if len(held) > 1)
    return tuple(sorted(split))


def _groups(module: Any) -> tuple[Any, ...]:
    """Return the parameter groups of a module that FSDP2 has sharded."""
    state = getattr(module, "_get_fsdp_state", None)
    try:
        found = state() if state is not None else None
    except Exception:  # noqa: BLE001  # a private method of another release
        return ()
    return tuple(getattr(found, "_fsdp_param_groups", None) or ())
