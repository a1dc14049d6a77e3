"""The outcome of a load under a device map for each tie group, told without loading.

`from_pretrained` here, and each function of `accelerate.py` beside this, follows one loader with the members of one
group; `loads_under` holds what comes out against a load without a map and tells what is not as it was meant. A load
that would fail without the tie as well is not laid to the tie.

What is said of transformers is from 5.23.0. The model is made on meta with no tie (`initialization.no_tie_weights`,
which `get_init_context` enters); its tensors are set one by one; `tie_weights` ties what it can; `dispatch_model` of
accelerate hooks it. Runs on cpu and disk prove it (tests/placement/test_loads.py); with a GPU in the map the same
statements apply, by the source alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tiecheck.placement.loads import accelerate
from tiecheck.placement.loads.accelerate import OTHER_DEVICE, Dispatch
from tiecheck.placement.loads.slots import (
    BEFORE,
    NONE,
    RANDOM,
    Fails,
    Form,
    Loaded,
    LoadGroup,
    Slots,
    Untold,
    stored_value,
)
from tiecheck.placement.map_lookup import DeviceMap, by_accelerate, by_transformers
from tiecheck.records.placement import PlacedLoad
from tiecheck.records.record import Record
from tiecheck.records.words import Unknown

__all__ = ["Load", "LoadGroup", "loads_under"]

Function = Literal["from_pretrained", "load_checkpoint_and_dispatch", "dispatch_model"]
ACCELERATE = "1.15.0"
TRANSFORMERS = "5.23.0"


class Load(Record):
    """A way to load a model, or to dispatch it."""

    function: Function
    """Who does it: transformers' `from_pretrained`, or one of accelerate's two."""
    form: Form = "safetensors"
    """The form in which the checkpoint is stored; not asked by `dispatch_model`."""
    on_meta: bool = True
    """True where the module has no values before; asked by the two that load into a module."""
    called: tuple[str, ...] | None = None
    """The paths of the modules that a forward pass is seen to call, in the order of the calls; None where nobody saw.
    A weight that is missing hurts where its module is called."""


def loads_under(
    device_map: Mapping[str, Any], groups: Iterable[LoadGroup], load: Load
) -> tuple[PlacedLoad | Unknown, ...]:
    """Return what becomes of each tie group, where that is not what was meant, in the groups' order.

    Of a group transformers asks for its pairs, accelerate for its slots and objects. An `Unknown` stands where it
    cannot be told.
    """
    known = DeviceMap.of(device_map)
    found = (_of_group(known, group, load) for group in groups)
    return tuple(load for load in found if load is not None)


def _of_group(device_map: DeviceMap, group: LoadGroup, load: Load) -> PlacedLoad | Unknown | None:
    if len(group.names) < 2 or (load.function == "from_pretrained" and not group.pairs):
        return None
    if not group.stored and load.function != "dispatch_model":
        return None  # nothing of it is loaded, with a map or without
    if group.equal is not None or len(group.stored) < 2:
        return _judged(device_map, group, load)
    one, other = (_judged(device_map, group._replace(equal=equal), load) for equal in (True, False))
    if one == other or (isinstance(one, Unknown) and isinstance(other, Unknown)):
        return one
    if any(isinstance(said, PlacedLoad) and not said.harmless for said in (one, other)):
        return Unknown(f"what becomes of {group.names[0]} hangs on whether the stored members are equal")
    return None


def _judged(device_map: DeviceMap, group: LoadGroup, load: Load) -> PlacedLoad | Unknown | None:
    """Return what becomes of one group of which it is known whether the stored members are equal."""
    if not device_map or "meta" in device_map.devices:
        return Unknown("the map puts modules nowhere or on meta, where nothing is loaded")
    try:
        out = _run(group, device_map, load)
        meant = _meant(group, load)
    except Untold as reason:
        return Unknown(str(reason)) if device_map.devices != {device_map.main} else None  # one device: as without a map
    except Fails as failure:
        return _failed(device_map, group, load, failure)
    if not all(_same(value, meant.values[name], group, load) for name, value in out.values.items()):
        return _record(device_map, group, load, "overwrites")
    if len(out.together) > len(meant.together):
        twice = out.files > 1 and load.function == "dispatch_model"
        return _record(device_map, group, load, "copies" if twice else "untied", harmless=True)
    return None


def _failed(device_map: DeviceMap, group: LoadGroup, load: Load, failure: Fails) -> PlacedLoad | Unknown:
    """Return a failure, unless the members would meet it without a tie as well, or nobody reads what is not there."""
    apart = tuple(range(len(group.names)))
    untied = group._replace(pairs=(), objects=apart, slots=(), stored=group.names)
    try:
        _run(untied, device_map, load)
    except Fails as other:
        return Unknown(f"{load.function} fails under this map whether anything is tied or not ({other})")
    except Untold as reason:
        if failure.reads or not reason.loads:
            return Unknown(str(reason))
    reads = _read(failure.reads, group, load)
    if failure.reads and not reads:
        return Unknown(f"whether a forward pass reads {failure.reads[0]} is not known; it would raise {failure}")
    message = f"KeyError: {reads[0]!r}" if reads and str(failure).startswith("KeyError") else str(failure)
    at: Literal["load", "forward"] = "forward" if reads else "load"
    return _record(device_map, group, load, "raises", message=message, at=at)


def _read(names: tuple[str, ...], group: LoadGroup, load: Load) -> list[str]:
    """Return those of some names that a forward pass is known, or else taken, to read, the first one first."""
    if load.called is None:
        return sorted(set(names) - _containers(group))
    order = {path: place for place, path in enumerate(load.called)}
    called = [name for name in names if name.rpartition(".")[0] in order]
    return sorted(called, key=lambda name: order[name.rpartition(".")[0]])


def _containers(group: LoadGroup) -> set[str]:
    """Sources of several targets: `shared` of T5 and BART holds the weight and is not called (transformers 5.23)."""
    sources = [source for _, source in group.pairs]
    return {source for source in sources if sources.count(source) > 1}


def _meant(group: LoadGroup, load: Load) -> Loaded:
    """Return what a load without a map gives."""
    if load.function == "from_pretrained":
        return from_pretrained(group, None, load.form)
    value = stored_value(group.stored[0]) if group.stored and load.function != "dispatch_model" else BEFORE
    return Loaded((group.names,), dict.fromkeys(group.names, value))


def _same(value: str, meant: str, group: LoadGroup, load: Load) -> bool:
    """Return whether two values are equal. Of different values under a real tie accelerate keeps one, map or not."""
    both_stored = value.startswith("stored ") and meant.startswith("stored ")
    return value == meant or (both_stored and (bool(group.equal) or load.function != "from_pretrained"))


def _record(  # noqa: PLR0913  # the fields of a record
    device_map: DeviceMap,
    group: LoadGroup,
    load: Load,
    form: Literal["raises", "overwrites", "untied", "copies"],
    *,
    message: str | None = None,
    harmless: bool = False,
    at: Literal["load", "forward"] = "load",
) -> PlacedLoad:
    ours = load.function == "from_pretrained"
    look = by_transformers if ours else by_accelerate
    devices = tuple(look(device_map, name) or "" for name in group.names)
    versions = f"{TRANSFORMERS} with accelerate {ACCELERATE}" if ours else ACCELERATE
    if device_map.devices - {"cpu", "disk"}:
        versions += ", by its source"
    return PlacedLoad(
        tool="transformers" if ours else "accelerate",
        function=load.function,
        form=form,
        names=group.names,
        devices=devices,
        stored=tuple(sorted(group.stored)) if load.function != "dispatch_model" else (),
        message=message,
        harmless=harmless,
        versions=versions,
        at=at,
    )


def _run(group: LoadGroup, device_map: DeviceMap, load: Load) -> Loaded:
    """Return what comes out of a load under a map."""
    if load.function == "from_pretrained":
        return from_pretrained(group, device_map, load.form)
    if load.function == "load_checkpoint_and_dispatch":
        return accelerate.load_checkpoint_and_dispatch(group, device_map, load.form, on_meta=load.on_meta)
    if load.on_meta:
        raise Untold("the module has no values to dispatch")
    return accelerate.dispatch_model(group, device_map)


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
