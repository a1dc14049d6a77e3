"""Filling devices in order: the items of a model flow over the devices, what is fixed to one is laid there first.

With fixed items given, going on to the next device only where an item does not fit puts as much as possible before each
cut, so that if an ordered placement exists this finds one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from tiecheck.placement.proposal.units import Item

TRIES = 1 << 16
"""Items times homes up to which every way of giving homes to the joined items is tried; beyond, a few sensible ones."""


class Slot(NamedTuple):
    """A device as a plan sees it."""

    key: int | str
    """As accelerate writes it."""
    room: int | None
    """Bytes it may hold; None for any number."""
    offload: bool
    """True where what lies there is brought to the first device for each forward pass."""


class Homes(NamedTuple):
    """Where joined items go."""

    fixed: Mapping[int, int]
    """Item -> slot, for those that do not flow."""
    late: bool = False
    """True where a joined item that flows does so at its last unit's place, not at its first's."""


class Filled(NamedTuple):
    """A placement that fits."""

    slots: tuple[int, ...]
    """For each item its slot."""
    used: tuple[int, ...]
    """Bytes in each slot."""
    kept: tuple[int, ...]
    """Bytes in each slot that must stay free beside them."""


def fill_devices(items: Sequence[Item], slots: Sequence[Slot], homes: Homes) -> Filled | None:
    """Place items, and keep room for what is offloaded.

    What lies on an offload device comes back to the first device module by module, so that the biggest must fit there
    beside the rest; what lies on disk passes through the CPU. That is the room accelerate 1.15 keeps on its main
    devices (`infer_auto_device_map`).

    Returns:
        The placement, or None where there is none in that order. Room that is kept only ever grows, and with it what
        lies behind: the first one found keeps the least.
    """
    order = sorted(range(len(items)), key=lambda i: items[i].units[-1 if homes.late else 0])
    kept = [0] * len(slots)
    for _ in range(len(items) + 1):
        placed = _flow(items, slots, homes.fixed, order, kept)
        if placed is None:
            return None
        wanted = _room(items, slots, placed)
        if all(w <= k for w, k in zip(wanted, kept, strict=True)):
            used = [0] * len(slots)
            for item, slot in zip(items, placed, strict=True):
                used[slot] += item.nbytes
            return Filled(tuple(placed), tuple(used), tuple(wanted))
        kept = list(map(max, wanted, kept))
    return None


def _flow(
    items: Sequence[Item], slots: Sequence[Slot], fixed: Mapping[int, int], order: list[int], kept: list[int]
) -> list[int] | None:
    left = [float("inf") if slot.room is None else slot.room - k for slot, k in zip(slots, kept, strict=True)]
    placed = [-1] * len(items)
    for item, slot in fixed.items():
        placed[item] = slot
        left[slot] -= items[item].nbytes
    if any(left[slot] < 0 for slot in {*fixed.values(), *(n for n, k in enumerate(kept) if k)}):
        return None
    at, last = 0, len(slots)
    for item in order:
        if placed[item] < 0:
            nbytes = items[item].nbytes
            while nbytes > left[at]:
                at += 1
                if at == last:
                    return None
            placed[item] = at
            left[at] -= nbytes
    return placed


def _room(items: Sequence[Item], slots: Sequence[Slot], placed: list[int]) -> list[int]:
    """Return the room that a placement needs on the device that computes, and on the CPU for what lies on disk."""
    layers = [0] * len(slots)
    for item, at in zip(items, placed, strict=True):
        layers[at] = max(layers[at], item.layer)
    wanted = [0] * len(slots)
    wanted[0] = max((layer for layer, slot in zip(layers, slots, strict=True) if slot.offload), default=0)
    disk = max((layer for layer, slot in zip(layers, slots, strict=True) if slot.key == "disk"), default=0)
    for number, slot in enumerate(slots):
        if slot.key == "cpu":
            wanted[number] = max(wanted[number], disk)
    return [0 if slot.key == "disk" else want for want, slot in zip(wanted, slots, strict=True)]


def homes_for(items: Sequence[Item], slots: Sequence[Slot], pinned: Mapping[int, int]) -> Iterator[Homes]:
    """Yield the homes to try for joined items without a pin, the natural one first: where the first member stands.

    Every way, where there are few; otherwise each of: at the first or the last member's place, and the biggest first
    into the first device with room, counting from each device.
    """
    yield Homes(pinned)
    joined = [n for n, item in enumerate(items) if len(item.units) > 1 and n not in pinned]
    if not joined:
        return
    yield Homes(pinned, late=True)
    if len(joined) == 1 or (len(joined) < 10 and len(slots) ** len(joined) * len(items) <= TRIES):
        for choice in product(range(len(slots)), repeat=len(joined)):
            yield Homes({**pinned, **dict(zip(joined, choice, strict=True))})
        return
    joined.sort(key=lambda n: -items[n].nbytes)
    for start in range(len(slots)):
        yield Homes({**pinned, **_packed(items, slots, joined, start)})


def _packed(items: Sequence[Item], slots: Sequence[Slot], joined: list[int], start: int) -> dict[int, int]:
    """Joined items, the biggest first, each in the first device with room for it."""
    left = [float("inf") if slot.room is None else slot.room for slot in slots]
    chosen = {}
    for number in joined:
        for step in range(len(slots)):
            slot = (start + step) % len(slots)
            if left[slot] >= items[number].nbytes:
                chosen[number] = slot
                left[slot] -= items[number].nbytes
                break
    return chosen


def smallest_limit(low: int, high: int, fits: Callable[[int], Filled | None]) -> Filled | None:
    """Return the placement at the smallest limit that has one; what fits at a limit must fit at every larger one."""
    best = fits(high)
    while best is not None and low < high:
        middle = (low + high) // 2
        found = fits(middle)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    return best
