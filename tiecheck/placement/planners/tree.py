"""A model as the planners meet it, in plain data: looked at once, then planned with as often as is wanted.

The planners (`infer_auto_device_map` of accelerate 1.15 and transformers 5.23) go from a module to its
`named_children()`, which lists a child once a parent, and count tensors by `named_parameters()` and `named_buffers()`,
which list each once in the model, by its first name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

from tiecheck.live.module_graph import ModuleGraph, repeated
from tiecheck.peers.views import paths
from tiecheck.peers.views.sight import Sight, ordered
from tiecheck.placement.planners.again import found_again

Groups = tuple[tuple[str, ...], ...]


class Entry(NamedTuple):
    """A tensor by the one name under which it is counted."""

    name: str
    """Its first name."""
    tensor: Tensor
    """The tensor; nothing of it is read but its size and type."""
    buffer: bool
    """Whether it is a buffer."""


Sizer = Callable[[Entry], Any]
"""Bytes of a tensor in a tool's own counting: a fraction where it takes less than a byte an element, None for none."""


class Tree:
    """The modules below a root, parents first, and the tensors they hold; a list is made when it is first asked for."""

    def __init__(self, module: nn.Module) -> None:
        """Look at a module.

        Args:
            module: Any module; it is not changed, and must not be while the tree is in use.

        Raises:
            TypeError: If `module` is no `nn.Module`.
            RecursionError: A registered cycle, or modules within modules deeper than Python recurses.
            Endless: Aliases that make more paths than can be walked.
        """
        sight = Sight(module)
        self._graph = graph = sight.graph
        if graph.several():
            paths.check(sight.extent())
            paths.check(sight.extent(once=True))
        else:
            paths.check(paths.Extent(0, 0, _depth(graph), endless=False))
        self.tied = paths.named(graph)
        """The names of each parameter that has several, in torch's order."""
        self.declared = _declared(module)
        """transformers' `all_tied_weights_keys`; None for a module that has none."""
        self.no_split = _words(module, "_no_split_modules")
        """The class's `_no_split_modules`; None where it has none."""
        self.no_placement = _words(module, "_no_placement_params")
        """The class's `_no_placement_params` (transformers from 5.16); None where it has none."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class name of each module; the root is the first."""
        return tuple([type(module).__name__ for module in self._graph.modules])

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The first path of each module."""
        parents, labels = self._graph._parent, self._graph._label
        found = [""]
        for number in range(1, len(parents)):
            above = found[parents[number]]
            found.append(f"{above}.{labels[number]}" if above else labels[number])
        return tuple(found)

    @cached_property
    def children(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Attribute and number of each child of each module, as `named_children()` lists them."""
        return _children(self._graph)

    @cached_property
    def own(self) -> tuple[tuple[str, ...], ...]:
        """The attributes of each module's own parameters, a parameter once a module."""
        return tuple([_labels(module._parameters.items()) for module in self._graph.modules])

    @cached_property
    def root_buffers(self) -> tuple[str, ...]:
        """The attributes of the root's own buffers."""
        return _labels(self._graph.modules[0]._buffers.items())

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every tensor once: the parameters, then the buffers."""
        return tuple(_parameters(self._graph, self.paths) + _buffers(self._graph, self.paths))

    def bytes_of(self, keys: Iterable[str], width: Callable[[Tensor], Any], left_out: Iterable[str] = ()) -> list[Any]:
        """Bytes of some modules and tensors, without adding up for all the others.

        Args:
            keys: Their names.
            width: Bytes of an element of a tensor.
            left_out: Names of parameters that are not counted.
        """
        graph = self._graph
        totals: list[Any] = [0] * len(graph.modules)
        tensors, owners, labels = graph.parameters
        again = repeated(map(id, tensors))
        missing = set(left_out)
        lacking = self._slots(missing)
        seen: set[int] = set()
        for tensor, owner, label in zip(tensors, owners, labels, strict=True):
            if again and id(tensor) in again:
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
            if (owner, label) not in lacking:
                totals[owner] += tensor.numel() * width(tensor)
        for owner, module in enumerate(graph.modules):
            held = module.__dict__["_buffers"]
            for tensor in held.values() if held else ():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    totals[owner] += tensor.numel() * width(tensor)
        for number in range(len(totals) - 1, 0, -1):
            totals[graph._parent[number]] += totals[number]
        modules = dict(zip(self.paths, totals, strict=True))
        wanted = list(keys)
        if not all(key in modules for key in wanted):
            modules |= {e.name: e.tensor.numel() * width(e.tensor) for e in self.entries if e.name not in missing}
        return [modules.get(key, 0) for key in wanted]

    def _slots(self, names: set[str]) -> set[tuple[int, str]]:
        """The module and attribute of some names, where the module stands under its first path."""
        parts = {tuple(name.rpartition(".")[::2]) for name in names}
        wanted = {path for path, _ in parts}
        numbers = {path: number for number, path in enumerate(self.paths) if path in wanted}
        return {(numbers[path], label) for path, label in parts if path in numbers}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every name of every parameter in torch's order."""
        return tuple([name for name, _ in self._graph.modules[0].named_parameters(remove_duplicate=False)])

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The names without duplicates, in that order."""
        return tuple([entry.name for entry in self.entries if not entry.buffer])

    @cached_property
    def again(self) -> Groups:
        """The groups that accelerate before 0.34 finds, in its order."""
        return found_again(self._graph) if self.tied else ()

    @cached_property
    def tensors(self) -> tuple[tuple[tuple[str, int, bool], ...], ...]:
        """Attribute, number and whether it is a buffer, of each module's own tensors."""
        return _tensors(self._graph)


def groups_of(tree: Tree) -> Groups:
    """The groups of names that are one parameter, which is what accelerate from 0.34 finds; in our order."""
    return ordered(tree.tied)


def declared_groups(tree: Tree) -> Groups:
    """The groups that a transformers model declares, in our order; what of them is really tied is not asked."""
    held: dict[str, list[str]] = {}
    for target, source in (tree.declared or {}).items():
        held.setdefault(source, [source]).append(target)
    return ordered(held.values())


def _depth(graph: ModuleGraph) -> int:
    """Modules on the longest path of a graph without aliases."""
    depths = [1] * len(graph._parent)
    for number in range(1, len(depths)):  # parents first
        depths[number] = depths[graph._parent[number]] + 1
    return max(depths)


def _children(graph: ModuleGraph) -> tuple[tuple[tuple[str, int], ...], ...]:
    """What `named_children()` lists of each module, with the numbers of the children."""
    several = graph.several()
    if not several:
        listed: list[list[tuple[str, int]]] = [[] for _ in graph.modules]
        for number in range(1, len(graph.modules)):
            listed[graph._parent[number]].append((graph._label[number], number))
        return tuple(map(tuple, listed))
    return tuple(tuple(graph.children(number, once=True)) for number in range(len(graph.modules)))


def _labels(items: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    """The attributes of tensors, each tensor once."""
    seen: set[int] = set()
    found = []
    for label, tensor in items:
        if tensor is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            found.append(label)
    return tuple(found)


def _parameters(graph: ModuleGraph, found: Sequence[str]) -> list[Entry]:
    """What `named_parameters()` lists."""
    tensors, owners, labels = graph.parameters
    listed = list(zip(tensors, owners, labels, strict=True))
    if repeated(map(id, tensors)):
        first: dict[int, tuple[Tensor, int, str]] = {}
        for one in listed:
            first.setdefault(id(one[0]), one)
        listed = list(first.values())
    return [Entry(f"{found[o]}.{label}" if o else label, tensor, False) for tensor, o, label in listed]


def _buffers(graph: ModuleGraph, found: Sequence[str]) -> list[Entry]:
    """What `named_buffers()` lists."""
    seen: set[int] = set()
    entries = []
    for path, module in zip(found, graph.modules, strict=True):
        held = module.__dict__["_buffers"]  # not by getattr: `nn.Module.__getattr__` makes that slow
        if not held:
            continue
        for label, tensor in held.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                entries.append(Entry(f"{path}.{label}" if path else label, tensor, True))
    return entries


def _tensors(graph: ModuleGraph) -> tuple[tuple[tuple[str, int, bool], ...], ...]:
    """Each module's own tensors, with a number that is the same for the same tensor."""
    numbers: dict[int, int] = {}
    held = []
    for module in graph.modules:
        here: list[tuple[str, Tensor | None, bool]] = [(label, t, False) for label, t in module._parameters.items()]
        here += [(label, tensor, True) for label, tensor in module._buffers.items()]
        held.append(
            tuple([(label, numbers.setdefault(id(t), len(numbers)), b) for label, t, b in here if t is not None])
        )
    return tuple(held)


def names_within(tree: Tree, number: int) -> tuple[list[str], list[str]]:
    """What `named_parameters()` and `named_buffers()` of one module list; for a tree that has its `tensors`."""
    lists: tuple[list[str], list[str]] = ([], [])
    seen: set[tuple[int, bool]] = set()
    walked: set[int] = set()
    stack = [("", number)]
    while stack:
        prefix, here = stack.pop()
        if here in walked:
            continue
        walked.add(here)
        for label, tensor, buffer in tree.tensors[here]:
            if (tensor, buffer) not in seen:
                seen.add((tensor, buffer))
                lists[buffer].append(prefix + label)
        stack += [(f"{prefix}{label}.", child) for label, child in reversed(tree.children[here])]
    return lists


def _declared(module: nn.Module) -> dict[str, str] | None:
    keys = getattr(module, "all_tied_weights_keys", None)
    return dict(keys) if isinstance(keys, dict) else None


def _words(module: nn.Module, attribute: str) -> tuple[str, ...] | None:
    """A class's list of words; sorted, because transformers 5 keeps it in a set."""
    value = getattr(module, attribute, None)
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(sorted(value))
