"""A model as a placement sees it: its names and their bytes, its tie groups, and where a plan puts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.placement.map_lookup import DeviceMap, by_transformers, key_of
from tiecheck.records.live import LiveModel, Tie
from tiecheck.records.placement import Device, ModuleTree, Placed, Plan, TreeNode, TreeTensor
from tiecheck.records.words import TIED, Kind, Unknown

if TYPE_CHECKING:
    from tiecheck.live.transformers.loading import Planned


LIMIT = 1_000_000
"""Paths of modules that are listed. A chain of twenty doubled aliases has as many, and its state dict too."""

Loader = Literal["accelerate", "transformers"]
"""Who loads a target and looks its names up in a map."""


class PlacedModel:
    """A model as a placement knows it. Its tree is made when it is first asked for: a sound plan needs none."""

    def __init__(self, tree: Callable[[], ModuleTree], groups: tuple[Placed, ...]) -> None:
        """Begin with what makes its tree, in the element type of the load, and the groups that must stay together."""
        self._tree = tree
        self.groups = groups

    @cached_property
    def tree(self) -> ModuleTree:
        """Its modules and tensors."""
        return self._tree()

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The path of each node of the tree."""
        return tuple(self.tree.paths())

    @cached_property
    def tensors(self) -> tuple[tuple[str, ...], ...]:
        """The names of each tensor of the tree, by its number."""
        found: list[list[str]] = [[] for _ in self.tree.sizes]
        for name, number in self.tree.numbers().items():
            found[number].append(name)
        return tuple(map(tuple, found))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes by name, in the element type of the load."""
        pairs = zip(self.tensors, self.tree.sizes, strict=True)
        return {name: nbytes for names, nbytes in pairs for name in names}

    def names(self) -> list[str]:
        """Return every name of the state dict, those that aliases make included."""
        return [
            f"{path}.{tensor.attribute}" if path else tensor.attribute
            for path, node in zip(self.paths, self.tree.nodes, strict=True)
            for tensor in node.tensors
            if tensor.persistent
        ]

    def modules(self) -> list[str]:
        """Return the paths of `named_modules()`: each module once."""
        return [path for path, node in zip(self.paths, self.tree.nodes, strict=True) if not node.alias]

    def alias_paths(self) -> dict[str, str]:
        """Return the further paths of modules -> the path that `named_modules()` has of the same module."""
        pairs = zip(self.paths, self.tree.nodes, strict=True)
        return {path: self.paths[node.module] for path, node in pairs if node.alias}

    def used(self, device: Callable[[str], Device | None]) -> dict[Device, int]:
        """Return bytes that lie on each device: a tensor once on each device that has one of its names."""
        found: dict[Device, int] = {}
        for names, nbytes in zip(self.tensors, self.tree.sizes, strict=True):
            for where in {device(name) for name in names}:
                if where is not None:
                    found[where] = found.get(where, 0) + nbytes
        return found

    def blocks(self, device_map: Mapping[str, Any]) -> dict[str, int]:
        """Return bytes that each key of a map places: a tensor once under each key that has one of its names."""
        found = dict.fromkeys(device_map, 0)
        for names, nbytes in zip(self.tensors, self.tree.sizes, strict=True):
            for key in {key_of(device_map, name) for name in names}:
                if key is not None:
                    found[key] += nbytes
        return found

    def spread(
        self, plan: Plan, seen: Iterable[Sequence[str]] | None, loader: Loader = "accelerate", *, counted: bool = False
    ) -> Plan:
        """Return a plan with where it puts each group, and how many bytes lie on each device.

        `seen` is what its planner took for one tensor, None for a map that somebody gave. `counted` takes the planner's
        count for what there is, as long as no group is split or counted twice.
        """
        if not plan.device_map:
            return plan
        device = device_lookup(plan.device_map, loader)
        of_name = None if seen is None else {name: number for number, group in enumerate(seen) for name in group}
        placed = tuple(
            group._replace(
                devices=tuple(map(device, group.names)),
                nbytes=self.sizes.get(group.names[0]) if group.nbytes is None else group.nbytes,
                seen=of_name is None or len({of_name.get(name, name) for name in group.names}) == 1,
            )
            for group in self.groups
        )
        sound = counted and plan.counted and not plan.doubles and all(len(set(one.devices)) == 1 for one in placed)
        return plan._replace(placed=placed, used=plan.counted if sound else self.used(device))


def device_lookup(device_map: Mapping[str, Any], loader: Loader = "accelerate") -> Callable[[str], Device | None]:
    """Return what tells the device of a name under a map, as a loader looks for it."""
    known = DeviceMap.of(device_map)
    return partial(by_transformers, known) if loader == "transformers" else known.device_of


class Subject(NamedTuple):
    """A model to be placed."""

    module: nn.Module
    """The model, without wrappers."""
    planned: Planned | None
    """The same as `from_pretrained` has it when it plans, where that is what loads it."""
    model: PlacedModel
    """Its names, bytes and groups."""
    natural: Loader
    """Who loads such a target."""


class NoTreeError(Exception):
    """The reason for which a model has no tree that could be planned with."""


def model_of(module: nn.Module, live: LiveModel, dtype: str | None) -> PlacedModel:
    """Return what a placement has to know of a module without wrappers, in the type of a load (None: its own)."""

    def tree() -> ModuleTree:
        found = module_tree(module, dtype)
        if isinstance(found, Unknown):
            raise NoTreeError(f"no map can be made for it: {found.reason}")
        return found

    return PlacedModel(tree, placed_groups(live, dtype))


def placed_groups(live: LiveModel, dtype: str | None = None) -> tuple[Placed, ...]:
    """Return the real ties of parameters, and the declared groups that are none, by first name; under no map yet."""
    real = {tie.names: tie for tie in live.ties if tie.kind in TIED and not tie.buffer}
    held = {name: names for names in real for name in names}
    said = [claim for claim in live.declared if not claim.missing]
    inside = {held[claim.names[0]] for claim in said if claim.kind in TIED and claim.names[0] in held}
    found = {
        names: _unplaced(names, tie.kind, _nbytes(tie, dtype), declared=names in inside) for names, tie in real.items()
    }
    for claim in said:
        if claim.kind not in TIED:
            found.setdefault(claim.names, _unplaced(claim.names, claim.kind, None, declared=True))
    return tuple(found[names] for names in sorted(found))


def _unplaced(names: tuple[str, ...], kind: Kind, nbytes: int | None, *, declared: bool) -> Placed:
    """Return a group under no map yet; without its bytes where the tree has to tell them."""
    return Placed(names, kind, declared, (), nbytes, seen=True)


def _nbytes(tie: Tie, dtype: str | None) -> int | None:
    """Return bytes of a tied tensor in the element type of the load, where it is known to be one of floating point."""
    if dtype is None or tie.shape is None:
        return tie.nbytes
    own, wanted = (getattr(torch, word or "", None) for word in (tie.dtype, dtype))
    if not isinstance(own, torch.dtype) or not isinstance(wanted, torch.dtype):
        return None
    return math.prod(tie.shape) * (wanted if own.is_floating_point else own).itemsize


def module_tree(module: nn.Module, dtype: str | None = None) -> ModuleTree | Unknown:
    """Return the tree of a module, every path written out; nothing is changed, no element is read.

    Floating-point parameters count in the type that they will be loaded in, torch's word (None for their own), buffers
    in theirs. There is none for a registered cycle, more than a million paths, or an uninitialised parameter.
    """
    graph = ModuleGraph(module)
    counts = [graph.paths(number) for number in graph.aliased()]
    if any(map(graph.closing, graph.several())):
        return Unknown("a module is registered inside itself, so that its names never end")
    if len(graph.modules) + sum([(count or 1) - 1 for count in counts]) > LIMIT:
        return Unknown(f"it has more than {LIMIT:,} paths of modules")
    sizes = _Sizes(getattr(torch, dtype) if dtype else None)
    try:
        tensors = [tuple(sizes.registered(one)) for one in graph.modules]
    except NoTreeError as error:
        return Unknown(str(error))
    names = [type(one).__name__ for one in graph.modules]
    nodes: list[TreeNode] = []
    first: dict[int, int] = {}
    stack = [(0, -1, "")]
    while stack:
        number, parent, label = stack.pop()
        here = len(nodes)
        known = first.setdefault(number, here)
        nodes.append(TreeNode(parent, label, names[number], tensors[number], known != here, known))
        stack += [(child, here, name) for name, child in reversed([*graph.children(number)])]
    return ModuleTree(tuple(nodes), tuple(sizes.nbytes))


class _Sizes:
    """The distinct tensors of a model by number, with their bytes in the element type of the load."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.nbytes: list[int] = []
        self._dtype = dtype
        self._numbers: dict[int, int] = {}

    def registered(self, module: nn.Module) -> Iterator[TreeTensor]:
        """List what a module itself registers, the parameters first."""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield TreeTensor(name, self._number(parameter, self._dtype), persistent=True)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield TreeTensor(name, self._number(buffer, None), name not in module._non_persistent_buffers_set)

    def _number(self, tensor: Tensor, dtype: torch.dtype | None) -> int:
        number = self._numbers.get(id(tensor))
        if number is None:
            if is_lazy(tensor):
                raise NoTreeError("a parameter is not initialised yet, so that its size is not known")
            number = self._numbers[id(tensor)] = len(self.nbytes)
            own = tensor.dtype
            width = dtype if dtype is not None and own.is_floating_point else own
            self.nbytes.append(int(tensor.numel()) * width.itemsize)
        return number
