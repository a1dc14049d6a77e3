"""Our own plan: a device map that keeps every tie group on one device, within the memory.

It works on plain data (`ModuleTree`) and imports no library. Layers follow each other over the devices; GPUs first,
then the CPU, then the disk. Room is kept as accelerate keeps it (`fill_devices`), and every tie is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tiecheck.placement.map_lookup import DeviceMap, key_of
from tiecheck.placement.proposal.fill import Filled, Homes, Slot, fill_devices, homes_for, smallest_limit
from tiecheck.placement.proposal.units import Units, map_of, units_of
from tiecheck.records.placement import Device, ModuleTree, Proposal
from tiecheck.wording import listed, size

EVEN = frozenset({"auto", "balanced", "balanced_low_0"})
"""The strategies that spread a model evenly over the GPUs."""


def propose_map(
    tree: ModuleTree,
    groups: Iterable[Sequence[str]],
    memory: Mapping[int | str, int],
    no_split: Iterable[str] = (),
    *,
    strategy: str = "auto",
) -> Proposal:
    """Return a device map under which no tie is split, or how much is missing for one.

    Args:
        tree: The model's modules (`tiecheck.placement.model`).
        groups: The groups that must stay together beside the ties that the tree shows: declared ones that a load will
            make.
        memory: Bytes by device, as accelerate keys them. The disk is used only where it is named here, or where
            nothing else fits; a named disk is filled to the bytes given.
        no_split: Classes whose modules stay on one device.
        strategy: `auto`, `balanced`, `balanced_low_0` or `sequential`; any other word is taken as `sequential`.

    Returns:
        The proposal. Where the model fits only with a disk that the memory does not name there is a map, and `lacks`
        says how many bytes are missing without it.
    """
    return _Planner(tree, units_of(tree, groups, no_split), memory, strategy).proposal()


class _Planner:
    """One search for a map."""

    def __init__(self, tree: ModuleTree, units: Units, memory: Mapping[int | str, int], strategy: str) -> None:
        self._tree = tree
        self._units = units
        self._strategy = strategy
        self._own = {n for n, item in enumerate(units.items) if any(units.apart[u] for u in item.units)}
        root = units.own.get(0)
        self._root = {n for n, item in enumerate(units.items) if root in item.units}
        given = {key: int(room) for key, room in memory.items() if int(room) > 0}
        self._gpus = [Slot(key, room, offload=False) for key, room in given.items() if key not in {"cpu", "disk"}]
        self._gpus.sort(key=lambda slot: (isinstance(slot.key, str), slot.key if isinstance(slot.key, int) else 0))
        self._cpu = given.get("cpu")
        self._disk = given.get("disk")

    def proposal(self) -> Proposal:
        """Return the best map there is."""
        found = self._on_gpus() or self._first_of(self._chains(self._disk, with_disk=False))
        if found is None and self._disk is not None:
            found = self._first_of(self._chains(self._disk, with_disk=True))
        if found is not None:
            return self._written(*found, lacks=0, reason=None)
        lacks, reason = self._missing()
        found = self._first_of(self._chains(None, with_disk=True)) if self._disk is None else None
        if found is None:
            return Proposal({}, {}, lacks, reason)
        return self._written(
            *found, lacks=lacks, reason=f"only with a part on disk: {reason}; {size(lacks)} are missing"
        )

    def _on_gpus(self) -> tuple[list[Slot], Filled] | None:
        """Everything on the GPUs, spread as the strategy wants it."""
        if not self._gpus:
            return None
        if self._strategy in EVEN:
            low = self._strategy == "balanced_low_0"  # the first is left free where the others have room
            ways = (self._gpus[1:], self._gpus) if low else (self._gpus,)
            return next(((slots, found) for slots in ways if slots and (found := self._even(slots))), None)
        return self._first_of([self._gpus[start:] for start in range(len(self._gpus))])

    def _even(self, slots: list[Slot]) -> Filled | None:
        """Return the placement whose fullest device is least full, for the first homes that fit at all."""
        for homes, full in self._fitting(slots):
            total = sum(full.used)
            low = max(-(-total // len(slots)), *(item.nbytes for item in self._units.items))
            high = max(full.used)

            def fits(limit: int, homes: Homes = homes) -> Filled | None:
                lower = [slot._replace(room=min(slot.room or 0, limit)) for slot in slots]
                filled = fill_devices(self._units.items, lower, homes)
                return filled if filled is not None and self._computes(lower, filled) else None

            return smallest_limit(low, max(low, high), fits) or full
        return None

    def _chains(self, disk: int | None, *, with_disk: bool) -> Iterator[list[Slot]]:
        """Yield the devices to fill in turn; with fewer and fewer GPUs, since the first in use has to keep room."""
        for start in range(len(self._gpus) + 1):
            gpus = self._gpus[start:]
            chain = gpus if self._cpu is None else [*gpus, Slot("cpu", self._cpu, offload=bool(gpus))]
            last = [Slot("disk", disk, offload=True)] if with_disk else []
            if chain:
                yield [*chain, *last]
            if last and gpus and self._cpu is not None:  # a CPU that is in use has to keep room too
                yield [*gpus, *last]

    def _first_of(self, chains: Iterable[list[Slot]]) -> tuple[list[Slot], Filled] | None:
        """Return the first chain that fits, without a tie on disk if possible."""
        spare = None
        for slots in chains:
            for _, filled in self._fitting(slots):
                if slots[-1].key != "disk" or not self._joined_on(filled, len(slots) - 1):
                    return slots, filled
                spare = spare or (slots, filled)
        return spare

    def _joined_on(self, filled: Filled, slot: int) -> bool:
        """Return whether a tie lies on a device; a tie on disk is read twice, so another home is looked for."""
        return any(at == slot and len(item.units) > 1 for item, at in zip(self._units.items, filled.slots, strict=True))

    def _fitting(self, slots: list[Slot]) -> Iterator[tuple[Homes, Filled]]:
        """Homes under which everything fits, the natural ones first."""
        items = self._units.items
        for pinned in ({}, dict.fromkeys(self._root, 0), dict.fromkeys(self._own, 0)):
            for homes in homes_for(items, slots, pinned):
                filled = fill_devices(items, slots, homes)
                if filled is not None and self._computes(slots, filled):
                    yield homes, filled
            if not self._own:
                return

    def _computes(self, slots: list[Slot], filled: Filled) -> bool:
        """Return whether everything can compute: the first device is in use where another one offloads to it.

        Tensors that stand on a split module must lie where it computes, for no hook will bring them there. What stands
        on the root is moved to the first device in use; of the rest only what is offloaded is lost.
        """
        offloads = any(used and slot.offload for used, slot in zip(filled.used, slots, strict=True))
        if offloads and not filled.used[0] and slots[0].key != "cpu":
            return False
        used = [slot for slot, nbytes in zip(slots, filled.used, strict=True) if nbytes]
        if not self._own or (len(used) < 2 and not any(slot.key == "disk" for slot in used)):
            return True
        if any(filled.slots[n] for n in self._root):
            return False
        return not any(slots[filled.slots[n]].offload for n in self._own)

    def _missing(self) -> tuple[int, str]:
        """Return how many bytes are missing, and where."""
        best: tuple[int, str] | None = None
        for slots in self._chains(self._disk, with_disk=self._disk is not None):
            for grown in ({len(slots) - 1}, {0, len(slots) - 1}):
                wide = [slot._replace(room=None) if n in grown else slot for n, slot in enumerate(slots)]
                for _, filled in self._fitting(wide):
                    over = [self._over(slots, filled, n) for n in sorted(grown)]
                    where = " and ".join(
                        str(_device(slots[n].key)) for n, o in zip(sorted(grown), over, strict=True) if o
                    )
                    if best is None or sum(over) < best[0]:
                        best = sum(over), where
        if best is None:
            return sum(item.nbytes for item in self._units.items), "no device that computes has any memory"
        lacks, where = best
        return lacks, f"there is too little room on {where}{self._biggest()}"

    def _over(self, slots: list[Slot], filled: Filled, number: int) -> int:
        return max(0, filled.used[number] + filled.kept[number] - (slots[number].room or 0))

    def _biggest(self) -> str:
        """Return what is said of joined units that are bigger than every device."""
        rooms = [slot.room or 0 for slot in self._gpus] + [self._cpu or 0]
        item = max(self._units.items, key=lambda one: one.nbytes)
        if item.nbytes <= max(rooms):
            return ""
        what = f"{listed(item.names)} are one tensor, and what holds it" if item.names else "the biggest module"
        return f"; {what} takes {size(item.nbytes)}, more than any device has"

    def _written(self, slots: list[Slot], filled: Filled, *, lacks: int, reason: str | None) -> Proposal:
        """Return the proposal in the words of the tools."""
        placed = [0] * len(self._units.apart)
        for item, slot in zip(self._units.items, filled.slots, strict=True):
            for unit in item.units:
                placed[unit] = slot
        keys = [slot.key for slot in slots]
        used = {_device(key): used for key, used in zip(keys, filled.used, strict=True) if used}
        return Proposal(map_of(self._tree, self._units, placed, keys), used, lacks, reason)


def _device(key: int | str) -> str:
    """Return a device in torch's words."""
    return f"cuda:{key}" if isinstance(key, int) else key


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
