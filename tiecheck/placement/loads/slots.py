"""The members of one tie group while a load goes on: which Parameter stands in each slot, where, and its value.

The places where the libraries make a new Parameter, put one in another's slot, or raise are followed one by one in
`follow.py` and `accelerate.py` beside this. A value is a word: `stored NAME` came from the checkpoint, `before`
is what the module had, `random` was drawn in the load, and `none` is that of a tensor on meta.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from torch import nn

from tiecheck.peers.views.tool_functions import WalkedModule, groups_from_pairs
from tiecheck.records.placement import Device
from tiecheck.records.record import Record

Form = Literal["safetensors", "pickle", "gguf", "onnx"]
"""The form in which a checkpoint is stored."""
NONE, BEFORE, RANDOM = "none", "before", "random"


def stored_value(name: str) -> str:
    """Return the value that the checkpoint stores under a name."""
    return f"stored {name}"


class LoadGroup(Record):
    """One tie group as a load meets it. Names are the model's own, whatever the file calls them."""

    names: tuple[str, ...]
    """The members, sorted."""
    pairs: tuple[tuple[str, str], ...]
    """(target, source) in the order of the class's `all_tied_weights_keys`; empty where nothing is declared."""
    stored: tuple[str, ...] = ()
    """The members that the checkpoint stores."""
    equal: bool | None = None
    """True where the stored members have equal values; None where that is not known."""
    slots: tuple[int, ...] = ()
    """A number for each name: names with the same one lead to one module's slot (a module alias). Empty: no alias."""
    objects: tuple[int, ...] = ()
    """A number for each name: names with the same one are one Parameter before the load. Empty: all are."""


class Fails(Exception):  # noqa: N818  # it tells what a library raises, and is no error of ours
    """An exception that a library raises."""

    def __init__(self, error: str, text: str, reads: tuple[str, ...] = ()) -> None:
        """Say what is raised, and by the first forward pass that reads which of the names; by the load where none."""
        super().__init__(f"{error}: {text}")
        self.reads = reads


class Untold(Exception):  # noqa: N818  # a reason, not an error
    """The reason for which it cannot be told what happens."""

    def __init__(self, reason: str, *, loads: bool = False) -> None:
        """Say why, and whether the load at least comes through."""
        super().__init__(reason)
        self.loads = loads


class SlotTensor(NamedTuple):
    """The tensor that stands in a slot."""

    parameter: int
    device: Device
    value: str


class Slots:
    """The slots of a group's members."""

    def __init__(self, group: LoadGroup, device: Device, value: str) -> None:
        """All members on one device and with one value, as `group.objects` says; `NONE` on meta."""
        numbers = group.slots or range(len(group.names))
        self.slot = dict(zip(group.names, numbers, strict=True))
        objects = group.objects or [0] * len(group.names)
        self._held = {
            slot: SlotTensor(number, device, value) for slot, number in zip(self.slot.values(), objects, strict=True)
        }
        self._made = max(objects) + 1

    def __getitem__(self, name: str) -> SlotTensor:
        """Content of a name's slot."""
        return self._held[self.slot[name]]

    def put(self, name: str, device: Device, value: str) -> None:
        """A new Parameter in a name's slot, and so in that of its aliases."""
        self._held[self.slot[name]] = SlotTensor(self._made, device, NONE if device == "meta" else value)
        self._made += 1

    def share(self, name: str, held: SlotTensor) -> None:
        """The Parameter of another slot in this one."""
        self._held[self.slot[name]] = held

    def together(self, names: Iterable[str]) -> list[list[str]]:
        """Return the names by Parameter."""
        by: dict[int, list[str]] = {}
        for name in names:
            by.setdefault(self[name].parameter, []).append(name)
        return list(by.values())


class Loaded(NamedTuple):
    """The result of a load."""

    together: tuple[tuple[str, ...], ...]
    """The names by Parameter, as they are once the load is over."""
    values: dict[str, str]
    """The value that a forward pass reads under each name."""
    files: int = 0
    """Number of the members that lie on the disk or in memory beside the module, each in a copy of its own."""


def declared_groups(
    pairs: Mapping[str, str], stored: Iterable[str], equal: Mapping[tuple[str, ...], bool] | None = None
) -> tuple[LoadGroup, ...]:
    """Return the groups of a transformers class, from its `all_tied_weights_keys` and its names that are stored."""
    there = set(stored)
    return tuple(
        LoadGroup(
            names,
            tuple((target, source) for target, source in pairs.items() if target in names),
            stored=tuple(name for name in names if name in there),
            equal=(equal or {}).get(names),
        )
        for names in groups_from_pairs(pairs.items())
    )


def live_groups(module: nn.Module, stored: Iterable[str] = ()) -> tuple[LoadGroup, ...]:
    """Return the groups of parameters that are one object, as accelerate from 0.34 finds them (`WalkedModule.tied`)."""
    there = set(stored)
    groups = []
    for names in WalkedModule(module).tied:
        slots: dict[tuple[int, str], int] = {}
        numbers = []
        for name in names:
            path, _, last = name.rpartition(".")
            numbers.append(slots.setdefault((id(module.get_submodule(path)), last), len(slots)))
        kept = tuple(name for name in names if name in there)
        groups.append(LoadGroup(names, (), stored=kept, slots=tuple(numbers)))
    return tuple(groups)
