"""transformers 5.23: what `from_pretrained(device_map=...)` makes of a tie group that the class declares.

All facts are from transformers 5.23.0. The model is made on meta with no tie (`initialization.no_tie_weights`, which
`get_init_context` enters); its tensors are set one by one; `tie_weights` ties what it can; `dispatch_model` of
accelerate hooks it. Runs on cpu and disk prove it (tests/placement/test_loads.py); with a GPU in the map the same
statements apply, by the source alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiecheck.placement.loads.accelerate import OTHER_DEVICE, Dispatch
from tiecheck.placement.loads.slots import NONE, RANDOM, Fails, Form, Loaded, LoadGroup, Slots, Untold, stored_value
from tiecheck.placement.map_lookup import DeviceMap, by_transformers

EQUAL_ON_META = "aten::equal: attempted to run this operator with Meta tensors"
"""`torch.equal` of a tensor on meta and one that is not (torch 2.13)."""


class _Load:
    """One load, seen from one tie group."""

    def __init__(self, group: LoadGroup, device_map: Mapping[str, Any], form: Form) -> None:
        self.group, self.device_map = group, device_map
        self.device = {name: by_transformers(device_map, name) for name in group.names}
        self.slots = Slots(group._replace(objects=tuple(range(len(group.names)))), "meta", NONE)
        self.missing = set(group.names)
        self.index: dict[str, str] = {}
        if DeviceMap.of(device_map).disk and form == "safetensors":
            self._index()

    def _index(self) -> None:
        """`accelerate_disk_offload`: what lies in safetensors stays there, and a target follows its source."""
        self.index = {name: stored_value(name) for name in self.group.stored if self.device[name] == "disk"}
        for target, source in self.group.pairs:
            if source in self.index:
                self.index.setdefault(target, self.index[source])

    def read(self) -> None:
        """`convert_and_load_state_dict_in_model`: a tensor for the disk leaves its parameter on meta."""
        for name in self.group.stored:
            self.missing.discard(name)
            if self.device[name] != "disk":
                self.slots.put(name, self.device[name], stored_value(name))
            else:
                self.index.setdefault(name, stored_value(name))

    def draw(self) -> None:
        """`_move_missing_keys_from_meta_to_device`: what is missing and no target gets values, `disk` on the CPU."""
        for name in self.missing - {target for target, _ in self.group.pairs}:
            device = self.device[name]
            self.slots.put(name, "cpu" if device == "disk" else device, RANDOM)

    def tie(self) -> None:
        """`tie_weights` with the missing names, pair by pair."""
        pairs = self.group.pairs
        for i, (target, source) in enumerate(pairs):
            found = self._ends(target, source, pairs[i + 1 :])
            if found is not None:
                into, of, remove = found
                self.slots.share(into, self.slots[of])
                if remove:
                    self.missing.discard(into)

    def _ends(self, target: str, source: str, later: tuple[tuple[str, str], ...]) -> tuple[str, str, bool] | None:
        """Return which name gets the parameter of which, and whether it is then no longer missing; None for no tie."""
        if target not in self.missing and source not in self.missing:
            return (target, source, True) if self._equal(target, source) else None
        if target not in self.missing:
            return source, target, True
        if source not in self.missing:
            return target, source, True
        backup = next((t for t, s in later if s == source and t not in self.missing), None)
        return (target, backup, True) if backup else (target, source, False)

    def _equal(self, target: str, source: str) -> bool:
        """`_tied_params_are_equal` of two members that are there; two on meta are let be."""
        a, b = self.slots[source], self.slots[target]
        if a.device == b.device == "meta":
            return False
        if "meta" in (a.device, b.device):
            raise Fails("NotImplementedError", EQUAL_ON_META)
        if a.device != b.device:
            raise Fails("RuntimeError", OTHER_DEVICE)
        if a.value == b.value or self.group.equal:
            return True
        if self.group.equal is None or len(self.group.stored) > 2:
            raise Untold("whether the stored members are equal is not known")
        return False


def from_pretrained(group: LoadGroup, device_map: Mapping[str, Any] | None, form: Form) -> Loaded:
    """Return what comes out for one group; without a map, of a load onto the CPU.

    `Fails` where it, or the first forward pass, raises; `Untold` where it hangs on values that are not known.
    """
    load = _Load(group, {"": "cpu"} if device_map is None else device_map, form)
    load.read()
    load.draw()
    load.tie()
    slots = load.slots
    if device_map and (len(set(device_map.values())) > 1 or DeviceMap.of(device_map).disk):
        return Dispatch(slots, group.names, device_map, load.index).run()
    together = tuple(tuple(names) for names in slots.together(group.names))
    return Loaded(together, {name: slots[name].value for name in group.names})
