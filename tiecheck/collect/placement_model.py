"""A model as a placement sees it: its names and their bytes, its tie groups, and where a plan puts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tiecheck.facts import TIED, Kind, Unknown
from tiecheck.facts_placement import Device, Placed, Plan

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.collect.transformers_planning import Planned
    from tiecheck.facts_live import LiveModel
    from tiecheck.facts_tree import ModuleTree


Loader = Literal["accelerate", "transformers"]
"""Who loads a target and looks its names up in a map."""


class Together(NamedTuple):
    """Names that are one tensor, or are declared to be."""

    names: tuple[str, ...]
    """The names, sorted."""
    kind: Kind
    """How they really hang together."""
    declared: bool
    """Whether the class or the user's contract says that they are one."""


class Model(NamedTuple):
    """What a placement has to know of a model."""

    tree: ModuleTree
    """Its modules and tensors."""
    paths: tuple[str, ...]
    """The path of each node of the tree."""
    tensors: tuple[tuple[str, ...], ...]
    """The names of each tensor of the tree, by its number."""
    sizes: Mapping[str, int]
    """Bytes by name, in the element type of the load."""
    groups: tuple[Together, ...]
    """The groups that must stay together."""

    def names(self) -> list[str]:
        """Every name of the state dict, those that aliases make included."""
        return [
            f"{path}.{tensor.attribute}" if path else tensor.attribute
            for path, node in zip(self.paths, self.tree.nodes, strict=True)
            for tensor in node.tensors
            if tensor.persistent
        ]

    def modules(self) -> list[str]:
        """The paths of `named_modules()`: each module once."""
        return [path for path, node in zip(self.paths, self.tree.nodes, strict=True) if not node.alias]

    def alias_paths(self) -> dict[str, str]:
        """The further paths of modules -> the path that `named_modules()` has of the same module."""
        if not any(node.alias for node in self.tree.nodes):
            return {}
        pairs = zip(self.paths, self.tree.nodes, strict=True)
        return {path: self.paths[node.module] for path, node in pairs if node.alias}

    def lookup(self, device_map: Mapping[str, Any], loader: Loader = "accelerate") -> Callable[[str], Device | None]:
        """What tells the device of a name under a map, as a loader looks for it."""
        from tiecheck.placing.lookup import DeviceMap, by_transformers

        known = DeviceMap.of(device_map)
        return partial(by_transformers, known) if loader == "transformers" else known.device_of

    def spread(self, plan: Plan, seen: Iterable[Sequence[str]] | None, device: Callable[[str], Device | None]) -> Plan:
        """A plan with where it puts each group, and how many bytes lie on each device.

        Args:
            plan: The plan; one that raised comes back as it is.
            seen: What its planner took for one tensor; None for a map that somebody gave.
            device: The device of a name under its map.
        """
        if not plan.device_map:
            return plan
        of_name = None if seen is None else {name: number for number, group in enumerate(seen) for name in group}
        used: dict[Device, int] = {}
        for number, names in enumerate(self.tensors):
            for where in {device(name) for name in names}:
                if where is not None:
                    used[where] = used.get(where, 0) + self.tree.sizes[number]
        placed = tuple(
            Placed(
                names=group.names,
                kind=group.kind,
                declared=group.declared,
                devices=tuple(map(device, group.names)),
                nbytes=self.sizes.get(group.names[0]),
                seen=of_name is None or len({of_name.get(name, name) for name in group.names}) == 1,
            )
            for group in self.groups
        )
        return plan._replace(placed=placed, used=used)


class Subject(NamedTuple):
    """What is to be placed."""

    module: nn.Module
    """The model, without wrappers."""
    planned: Planned | None
    """The same as `from_pretrained` has it when it plans, where that is what loads it."""
    model: Model
    """Its names, bytes and groups."""
    natural: Loader
    """Who loads such a target."""


def model_of(module: nn.Module, live: LiveModel, dtype: str | None) -> Model | Unknown:
    """What a placement has to know of a module.

    Args:
        module: The model, without wrappers.
        live: Its live layer.
        dtype: The element type of the load, torch's word; None for the module's own.
    """
    from tiecheck.collect.module_tree import module_tree

    tree = module_tree(module, dtype)
    if isinstance(tree, Unknown):
        return Unknown(f"no map can be made for it: {tree.reason}")
    paths: list[str] = []
    tensors: list[list[str]] = [[] for _ in tree.sizes]
    sizes = {}
    for node in tree.nodes:
        above = paths[node.parent] if node.parent >= 0 else ""
        path = f"{above}.{node.label}" if above else node.label
        paths.append(path)
        for tensor in node.tensors:
            name = f"{path}.{tensor.attribute}" if path else tensor.attribute
            tensors[tensor.number].append(name)
            sizes[name] = tree.sizes[tensor.number]
    return Model(tree, tuple(paths), tuple(map(tuple, tensors)), sizes, groups_of(live))


def groups_of(live: LiveModel) -> tuple[Together, ...]:
    """The groups of parameters that a placement must keep on one device.

    Args:
        live: The live layer.

    Returns:
        The real ties, and the declared groups that are none, by their first names.
    """
    real = {tie.names: tie.kind for tie in live.ties if tie.kind in TIED and not tie.buffer}
    held = {name: names for names in real for name in names}
    said = [claim for claim in live.declared if not claim.missing]
    inside = {held[claim.names[0]] for claim in said if claim.kind in TIED and claim.names[0] in held}
    found = {names: Together(names, kind, names in inside) for names, kind in real.items()}
    for claim in said:
        if claim.kind not in TIED:
            found.setdefault(claim.names, Together(claim.names, claim.kind, declared=True))
    return tuple(found[names] for names in sorted(found))
