"""accelerate 1.15: what `dispatch_model`, `load_checkpoint_in_model` and both together make of a tie group.

All facts are from accelerate 1.15.0, `utils/modeling.py`, `big_modeling.py` and `hooks.py`, and each function below
says which it follows. An offload folder is given wherever something goes to the disk. Runs on cpu, disk and meta
prove it (tests/placement/test_loads.py); with a GPU in the map the same statements apply, by the source alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiecheck.placement.loads.slots import (
    BEFORE,
    NONE,
    Fails,
    Form,
    Loaded,
    LoadGroup,
    Slots,
    SlotTensor,
    Untold,
    stored_value,
)
from tiecheck.placement.map_lookup import DeviceMap, by_accelerate, keys_above
from tiecheck.records.placement import Device

META_PLACED = "weight is on the meta device, we need a `value` to put in on {}."
"""`set_module_tensor_to_device`; it names the tensor by the last part of its name."""
OTHER_DEVICE = "Expected all tensors to be on the same device"
"""torch, of an operation on tensors of two devices; which two, it goes on to say."""


def _holds_any(key: str, names: tuple[str, ...]) -> bool:
    return any(key in {"", name} or name.startswith(f"{key}.") for name in names)


class Dispatch:
    """`dispatch_model`, seen from one tie group."""

    def __init__(
        self, slots: Slots, names: tuple[str, ...], device_map: Mapping[str, Any], index: Mapping[str, str] | None
    ) -> None:
        """Prepare to dispatch; `index` has what lies on the disk, None where `dispatch_model` writes it itself."""
        self.slots, self.names, self.index = slots, names, index
        self.device_map = DeviceMap.of(device_map)
        self.main, self.offloaded = self.device_map.main, self.device_map.offloaded
        self.beside: dict[str, SlotTensor] = {}
        self.pointers: dict[int, dict[Device, SlotTensor]] = {}

    def run(self) -> Loaded:
        """Return what comes out; `Fails` where it, or the first forward pass of a module that has a member, raises."""
        self._covered()
        self._aliases()
        if len(self.device_map.devices) == 1 and not self.device_map.disk:
            return self._moved()
        self._set_aside()
        tied = [names for names in self.slots.together(self.names) if len(names) > 1]
        self.pointers = {self.slots[g[0]].parameter: {} for g in tied if self.slots[g[0]].device != "meta"}
        for name in self.names:
            self._hook(name)
        retie_slots(self.slots, tied)
        together = tuple(tuple(names) for names in self.slots.together(self.names))
        return Loaded(together, self._forward(), len({*map(self.slots.slot.get, self.beside)}))

    def _covered(self) -> None:
        """`check_device_map`."""
        lost = [name for name in self.names if by_accelerate(self.device_map, name) is None]
        if lost:
            raise Fails(
                "ValueError",
                f"The device_map provided does not give any device for the following parameters: {', '.join(lost)}",
            )

    def _aliases(self) -> None:
        """A module under several paths is hooked by those that `named_children` lists, each with its own key."""
        for slot in set(self.slots.slot.values()):
            paths = [name for name in self.names if self.slots.slot[name] == slot]
            devices = {by_accelerate(self.device_map, name) for name in paths}
            if len(devices) > 1 or (len(paths) > 1 and not devices.isdisjoint(self.offloaded)):
                raise Untold(f"{paths[0]} and {paths[1]} are one module, and which path its hook goes by is not known")

    def _moved(self) -> Loaded:
        """One device: `model.to(device)`, which keeps a tie and refuses a tensor on meta."""
        if self.main != "meta" and any(self.slots[name].device == "meta" for name in self.names):
            raise Fails("NotImplementedError", "Cannot copy out of meta tensor; no data!")
        together = tuple(tuple(names) for names in self.slots.together(self.names))
        return Loaded(together, {name: self.slots[name].value for name in self.names})

    def _set_aside(self) -> None:
        """Set aside what the hooks of offloaded modules read: on the disk, with a GPU on the CPU too."""
        for name in self.names:
            for key in filter(
                None, keys_above(self.device_map, name)
            ):  # `extract_submodules_state_dict`: "" has nothing
                device = self.device_map.words[key]
                if device == "disk" and self.index is None:
                    if self.slots[name].device == "meta":
                        raise Fails("NotImplementedError", "Cannot copy out of meta tensor; no data!")
                    self.beside[name] = self.slots[name]._replace(parameter=-1)
                elif device == "cpu" and self.main != "cpu":
                    self.beside[name] = self.slots[name]
        for name, value in (self.index or {}).items():
            self.beside.setdefault(name, SlotTensor(-1, "disk", value))

    def _hook(self, name: str) -> None:
        """`attach_align_device_hook_on_blocks`, for the modules above a name, from the outside in."""
        for key in self._modules(name):
            device = self.device_map.words[key]
            if device not in self.offloaded:
                self._place(name, self.main if device == "cpu" else device)
            elif self.slots[name].device != "meta":
                self.slots.put(name, "meta", NONE)

    def _place(self, name: str, device: Device) -> None:
        """`AlignDevicesHook.init_hook` without offload: `set_module_tensor_to_device` with `tied_params_map`."""
        held = self.slots[name]
        there = self.pointers.get(held.parameter)
        if there is not None and device in there:
            self.slots.share(name, there[device])
            return
        if held.device == "meta" and device != "meta":
            raise Fails("ValueError", META_PLACED.format(device).replace("weight", name.rpartition(".")[2], 1))
        if held.device != device:
            self.slots.put(name, device, held.value)
        if there is not None:
            there[device] = self.slots[name]

    def _modules(self, name: str) -> list[str]:
        """Return the keys that are modules above a name, from the outside in: parameters have no hook."""
        return [key for key in keys_above(self.device_map, name) if key != name]

    def _hooked(self, name: str) -> Device | None:
        """Return the device that the innermost hook above a name is for; None where there is no hook."""
        keys = self._modules(name)
        return self.device_map.words[keys[-1]] if keys else None

    def _forward(self) -> dict[str, str]:
        """Return what the first forward pass reads: `AlignDevicesHook.pre_forward`.

        A tensor from beside gives way to a tied one that is on the device already: `set_module_tensor_to_device` looks
        in `tied_params_map` for the address of the parameter that stands in the slot.
        """
        lost = tuple(name for name in self.names if self._hooked(name) in self.offloaded and name not in self.beside)
        if lost:
            raise Fails("KeyError", repr(lost[0]), lost)
        values = {}
        for name in self.names:
            held = self.slots[name]
            device = self._hooked(name)
            if device in self.offloaded:
                there = self.pointers.get(held.parameter, {}).get(self.main)
                values[name] = (there or self.beside[name]).value
                continue
            needed = self.main if device in (None, "cpu") else device
            if device is None and held.device != needed:
                reason = f"the map has {name} and not its module, for which there is then no hook"
                raise Untold(reason, loads=True)
            if held.device != needed:
                raise Fails("RuntimeError", OTHER_DEVICE, (name,))
            values[name] = held.value
        return values


def retie_slots(slots: Slots, tied: list[list[str]]) -> None:
    """`retie_parameters`: the alphabetically first member that is not on meta stands for all."""
    for names in tied:
        first = next((slots[name] for name in sorted(names) if slots[name].device != "meta"), None)
        for name in names if first else ():
            slots.share(name, first)  # type: ignore[arg-type]  # mypy does not see that it is there


def load_checkpoint_in_model(
    group: LoadGroup, device_map: Mapping[str, Any], form: Form, *, on_meta: bool
) -> tuple[Slots, dict[str, str]]:
    """Return the members after `load_checkpoint_in_model`, and what was written to the offload folder.

    A value of the checkpoint is never written in place: `set_module_tensor_to_device` makes a new Parameter, and one on
    meta for `disk`, so that every tie is broken, to be made again by `retie_parameters` at the end. (Without a map it
    loads in place, and a tie holds.) The `objects` of the group are what `find_tied_parameters` sees. It may raise
    `Fails`.
    """
    slots = Slots(group, "meta" if on_meta else "cpu", NONE if on_meta else BEFORE)
    tied = [names for names in slots.together(group.names) if len(names) > 1]
    for name in (name for names in tied for name in names):
        if by_accelerate(device_map, name) is None:  # `_get_param_device` has eaten the name by then
            raise Fails("ValueError", "The `device_map` does not contain the module .")
    if form == "safetensors" and DeviceMap.of(device_map).devices == {"disk"}:  # `load_state_dict` opens the file on it
        raise Fails("SafetensorError", "device disk is invalid")
    written = {}
    for name in group.stored:
        device = by_accelerate(device_map, name)
        if device is None:
            raise Fails("ValueError", f"{name} doesn't have any device set.")
        if device == "disk":
            slots.put(name, "meta", NONE)
            written[name] = stored_value(name)
        else:
            slots.put(name, device, stored_value(name))
    retie_slots(slots, tied)
    return slots, written


def load_checkpoint_and_dispatch(
    group: LoadGroup, device_map: Mapping[str, Any], form: Form, *, on_meta: bool
) -> Loaded:
    """Do both; what the first wrote to the offload folder the second does not write again. It may raise `Fails`."""
    slots, written = load_checkpoint_in_model(group, device_map, form, on_meta=on_meta)
    others = any(not _holds_any(key, group.names) for key in DeviceMap.of(device_map).disk)
    return Dispatch(slots, group.names, device_map, written if written or others else None).run()


def dispatch_model(group: LoadGroup, device_map: Mapping[str, Any]) -> Loaded:
    """Return a module that has its values; `Fails` where it, or the first forward pass, raises."""
    return Dispatch(Slots(group, "cpu", BEFORE), group.names, device_map, None).run()
