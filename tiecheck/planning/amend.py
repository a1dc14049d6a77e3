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
    bears: Callable[[Mapping[str, int | str]], bool],
) -> dict[str, int | str] | None:
    """The map with the modules of each split group moved to one of the devices that its members have.

    Where several do, the one that most members have, of these one that computes, and of those the one that the map has
    first.

    Args:
        device_map: The map, which places every name.
        groups: The groups, each a sequence of names.
        lookup: What makes a map's lookup: name -> device in torch's words.
        bears: Whether the hooks bear a map's keys that stand below others (`placing.lookup.broken_nesting`).

    Returns:
        A map with the same keys in the same order and further ones behind them; None where there is none such, or
        moving the modules of one group parts another.
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
        ranked = sorted(set(homes), key=lambda one: (-homes.count(one), _rank(one), order.index(one)))
        moved = ({**found, **_moves(names, homes, home, values[home])} for home in ranked)
        better = next((one for one in moved if bears(one)), None)
        if better is None:
            return None
        found = better
    device = lookup(found)
    return found if all(len({device(name) for name in names}) == 1 for names in wanted) else None


def _moves(
    names: Sequence[str], homes: Sequence[Device | None], home: Device | None, value: int | str
) -> dict[str, int | str]:
    """The keys that bring the members of a group home; none that stands below another of them."""
    keys = {name.rpartition(".")[0] or name for name, there in zip(names, homes, strict=True) if there != home}
    return {key: value for key in sorted(keys) if not any(key.startswith(f"{other}.") for other in keys)}


def _rank(device: Device | None) -> int:
    return 1 + ASIDE.index(device) if device in ASIDE else 0
