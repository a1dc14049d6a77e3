"""Device maps as plain data: joining what stands together, and comparing two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tiecheck.placement.map_lookup import device_in

Key = int | str

SHOWN = 20
"""Modules that are listed at most where two maps differ."""


def cleaned(placed: Mapping[str, Key]) -> dict[str, Key]:
    """A map in which modules whose whole content is on one device stand as one (`clean_device_map`, accelerate 1.15).

    The same entries as theirs, in the order in which each was first placed; theirs is the order of a set.
    """
    below: dict[str, tuple[int, Key | None]] = {}
    for name, device in placed.items():
        for path in _above(name):
            count, held = below.get(path, (0, device))
            below[path] = count + 1, device if held == device else None
    found: dict[str, Key] = {}
    for name, device in placed.items():
        joined = name
        for path in _above(name):
            count, held = below[path]
            if count > 1 and held is not None:
                joined = path
                break
        found[joined] = device
    return found


def _above(name: str) -> Iterable[str]:
    """The paths a name stands under, the root's first."""
    if name:
        yield ""
    end = name.find(".")
    while end >= 0:
        yield name[:end]
        end = name.find(".", end + 1)


def splits(device_map: Mapping[str, Key], groups: Iterable[Iterable[str]]) -> bool:
    """Whether a map puts members of a group on different devices; one without a device says nothing."""
    for group in groups:
        devices = {device_in(device_map, name) for name in group} - {None}
        if len(devices) > 1:
            return True
    return False


def differing(one: Mapping[str, Key], other: Mapping[str, Key]) -> dict[str, tuple[Key, Key]]:
    """Where two maps that are not cleaned place something differently, by the finest key that either has.

    Returns:
        Module or tensor -> (device in the one, in the other), sorted by name.
    """
    keys = one.keys() | other.keys()
    coarse = {path for key in keys for path in _above(key)}
    found: dict[str, tuple[Key, Key]] = {}
    for key in sorted(keys - coarse):
        here, there = device_in(one, key), device_in(other, key)
        if here is not None and there is not None and here != there:
            found[key] = here, there
    return found
