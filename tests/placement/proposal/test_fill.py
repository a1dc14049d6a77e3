"""Filling devices in order, against trying every ordered placement of a few drawn items."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tiecheck.placement.proposal.fill import Filled, Homes, Slot, fill_devices, homes_for, smallest_limit
from tiecheck.placement.proposal.units import Item

ROOMS = st.one_of(st.none(), st.integers(0, 20))


@st.composite
def fillings(draw):
    """Items of one unit or of several joined ones, and devices; the first computes, the CPU and the disk offload."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    items = tuple(Item((n,), size, draw(st.integers(0, size)), ()) for n, size in enumerate(sizes))
    keys = [0, 1, "cpu", "disk"][: draw(st.integers(1, 4))]
    slots = tuple(Slot(key, None if key == "disk" else draw(ROOMS), key in ("cpu", "disk")) for key in keys)
    fixed = draw(st.dictionaries(st.integers(0, len(items) - 1), st.integers(0, len(slots) - 1), max_size=2))
    return items, slots, fixed


def fits(items, slots, placed) -> bool:
    """Tell whether a placement fits, with room on the first device for the biggest layer that is offloaded."""
    used = [sum(item.nbytes for item, at in zip(items, placed, strict=True) if at == n) for n in range(len(slots))]
    layer = [
        max((i.layer for i, at in zip(items, placed, strict=True) if at == n), default=0) for n in range(len(slots))
    ]
    kept = [0] * len(slots)
    kept[0] = max((size for size, slot in zip(layer, slots, strict=True) if slot.offload), default=0)
    disk = max((size for size, slot in zip(layer, slots, strict=True) if slot.key == "disk"), default=0)
    kept = [max(k, disk) if slot.key == "cpu" else k for k, slot in zip(kept, slots, strict=True)]
    kept = [0 if slot.key == "disk" else k for k, slot in zip(kept, slots, strict=True)]
    return all(s.room is None or u + (k or 0) <= s.room for s, u, k in zip(slots, used, kept, strict=True))


@given(fillings())
def test_a_placement_fits_and_goes_in_order_and_one_is_found_where_nothing_is_kept_free(case) -> None:
    items, slots, fixed = case
    found = fill_devices(items, slots, Homes(fixed))
    flowing = [n for n in range(len(items)) if n not in fixed]
    if found is not None:
        assert fits(items, slots, found.slots)
        assert all(found.slots[item] == slot for item, slot in fixed.items())
        assert [found.slots[n] for n in flowing] == sorted(found.slots[n] for n in flowing)
        assert found.used == tuple(
            sum(item.nbytes for item, at in zip(items, found.slots, strict=True) if at == n) for n in range(len(slots))
        )
        return
    if any(slot.offload for slot in slots):
        return  # room that is kept only grows, so that a later placement may be missed
    for placed in product(range(len(slots)), repeat=len(items)):
        inside = all(placed[item] == slot for item, slot in fixed.items())
        ordered = [placed[n] for n in flowing] == sorted(placed[n] for n in flowing)
        assert not (inside and ordered and fits(items, slots, placed))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 50))
def test_the_smallest_limit_at_which_something_fits_is_found(low: int, more: int, enough: int) -> None:
    asked: list[int] = []

    def at(limit: int) -> Filled | None:
        asked.append(limit)
        return Filled((), (limit,), ()) if limit >= enough else None

    found = smallest_limit(low, low + more, at)
    assert (found.used[0] if found else None) == (max(low, enough) if low + more >= enough else None)
    assert len(asked) <= 8


@given(fillings(), st.integers(0, 3))
def test_every_home_to_try_is_a_device_that_there_is_and_pins_stay(case, joined: int) -> None:
    items, slots, pinned = case
    shared = tuple(
        item._replace(units=(n, len(items) + n), names=("a", "b")) if n < joined else item
        for n, item in enumerate(items)
    )
    tried = list(homes_for(shared, slots, pinned))
    assert tried[0] == Homes(pinned)
    free = [n for n, item in enumerate(shared) if len(item.units) > 1 and n not in pinned]
    if not free:
        assert tried == [Homes(pinned)]
        return
    assert {**pinned} == {item: slot for item, slot in tried[1].fixed.items() if item in pinned}
    assert all(
        homes.fixed.keys() <= {*pinned, *free} and set(homes.fixed.values()) <= {*range(len(slots))} for homes in tried
    )
    assert len({tuple(sorted(h.fixed.items())) for h in tried[2:]}) == len(slots) ** len(free)
