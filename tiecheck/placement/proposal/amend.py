"""A map that somebody gave, with as few keys changed as keep every tie group together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tiecheck.placement.map_lookup import DeviceMap, key_of
from tiecheck.records.placement import Device

ASIDE = ("cpu", "disk", "meta")
"""Devices in the order in which they are worse as a home than any that computes."""


def amended_map(
    device_map: Mapping[str, int | str],
    groups: Iterable[Sequence[str]],
    lookup: Callable[[Mapping[str, int | str]], Callable[[str], Device | None]],
) -> dict[str, int | str] | None:
    """Return the map with the modules of each split group moved to one of the devices that its members have.

    Where several do, the one that most members have, of these one that computes, and of those the one that the map has
    first. `lookup` makes a map's lookup: name -> device in torch's words. Further keys stand behind those of the map.
    None comes back where moving the modules of one group parts another, or every further key would take a module out
    of one that is offloaded, or offload a part of one that is not.
    """
    found = dict(device_map)
    wanted = [tuple(group) for group in groups]
    values: dict[Device | None, int | str] = {}
    for value in device_map.values():
        values.setdefault(lookup({"": value})(""), value)
    order = list(values)
    for names in wanted:
        device = lookup(found)
        homes = [device(name) for name in names]
        if len(set(homes)) < 2:  # already together
            continue
        there = set(homes) & values.keys()  # a name that no key covers is at home nowhere
        ranked = sorted(there, key=lambda one: (-homes.count(one), _rank(one), order.index(one)))
        moved = ({**found, **_moves(names, homes, home, values[home])} for home in ranked)
        better = next((one for one in moved if not _nested(one, device_map)), None)
        if better is None:
            return None
        found = better
    device = lookup(found)
    return found if all(len({device(name) for name in names}) == 1 for names in wanted) else None


def _moves(
    names: Sequence[str], homes: Sequence[Device | None], home: Device | None, value: int | str
) -> dict[str, int | str]:
    """Return the keys that bring the members of a group home; none that stands below another of them."""
    keys = {name.rpartition(".")[0] or name for name, there in zip(names, homes, strict=True) if there != home}
    return {key: value for key in sorted(keys) if not any(key.startswith(f"{other}.") for other in keys)}


def _rank(device: Device | None) -> int:
    return 1 + ASIDE.index(device) if device in ASIDE else 0


def _nested(found: Mapping[str, int | str], device_map: Mapping[str, int | str]) -> bool:
    """Return whether a further key lies below another one, and one of the two alone is offloaded.

    accelerate 1.15 hooks the outer module first: what the inner key sends to the disk is on meta by then, and to put it
    on the outer's device raises, tied or not (`from_pretrained` of transformers 5.23 under such a map).
    """
    known = DeviceMap.of(found)
    for key in found.keys() - device_map.keys():
        outer = key_of(device_map, key.rpartition(".")[0])
        if outer is not None and (known.words[key] in known.offloaded) != (known.words[outer] in known.offloaded):
            return True
    return False
