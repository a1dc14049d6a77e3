"""A map that somebody gave, with as few keys changed as keep every tie group together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tiecheck.facts_placement import Device

ASIDE = ("cpu", "disk", "meta")
"""Devices in the order in which they are worse as a home than any that computes."""


def amended(
    device_map: Mapping[str, int | str],
    groups: Iterable[Sequence[str]],
    lookup: Callable[[Mapping[str, int | str]], Callable[[str], Device | None]],
) -> dict[str, int | str] | None:
    """The map with the modules of each split group moved to the device that most of its members have.

    Of devices that have as many the one that computes is taken, and of those the one that the map has first.

    Args:
        device_map: The map, which places every name.
        groups: The groups, each a sequence of names.
        lookup: What makes a map's lookup: name -> device in torch's words.

    Returns:
        A map with the same keys in the same order and further ones behind them; None where moving the modules of one
        group parts another, or a member stands on a module that holds other modules without keys of their own.
    """
    found = dict(device_map)
    wanted = [tuple(group) for group in groups]
    order = list(dict.fromkeys(lookup({"": value})("") for value in device_map.values()))
    for names in wanted:
        device = lookup(found)
        homes = [device(name) for name in names]
        if len(set(homes)) < 2:  # already together
            continue
        home = min(dict.fromkeys(homes), key=lambda one: (-homes.count(one), _rank(one), order.index(one)))
        value = next(v for k, v in device_map.items() if lookup({"": v})("") == home)
        for name, there in zip(names, homes, strict=True):
            if there != home:
                found[name.rpartition(".")[0] or name] = value
    device = lookup(found)
    return found if all(len({device(name) for name in names}) == 1 for names in wanted) else None


def _rank(device: Device | None) -> int:
    return 1 + ASIDE.index(device) if device in ASIDE else 0
