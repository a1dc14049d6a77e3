"""A model as the planners meet it, in plain data: made once, then planned with as often as is wanted.

The planners (`infer_auto_device_map` of accelerate 1.15 and transformers 5.23) go from a module to its
`named_children()`, which lists a child once a parent, and count tensors by `named_parameters()` and `named_buffers()`,
which list each once in the model, by its first name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from tiecheck.collect.alias_graph import ModuleGraph, repeated
from tiecheck.peers.planners.again import found_again
from tiecheck.peers.views import paths
from tiecheck.peers.views.sight import Sight, ordered

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


class Tree(NamedTuple):
    """The modules below a root, parents first, and the tensors they hold."""

    classes: tuple[str, ...]
    """Class name of each module; the root is the first."""
    paths: tuple[str, ...]
    """The first path of each."""
    children: tuple[tuple[tuple[str, int], ...], ...]
    """Attribute and number of each child of each module, as `named_children()` lists them."""
    own: tuple[tuple[str, ...], ...]
    """The attributes of each module's own parameters, a parameter once a module."""
    root_buffers: tuple[str, ...]
    """The attributes of the root's own buffers."""
    entries: tuple[Entry, ...]
    """Every tensor once: the parameters, then the buffers."""
    names: tuple[str, ...]
    """Every name of every parameter in torch's order; empty where none has two."""
    kept: tuple[str, ...]
    """The names without duplicates, in that order; empty where `names` is."""
    firsts: dict[str, str]
    """Further name of a parameter -> its first one."""
    again: Groups
    """The groups that accelerate before 0.34 finds, in its order."""
    declared: dict[str, str] | None
    """transformers' `all_tied_weights_keys`; None for a module that has none."""
    no_split: tuple[str, ...] | None
    """The class's `_no_split_modules`; None where it has none."""
    no_placement: tuple[str, ...] | None
    """The class's `_no_placement_params` (transformers from 5.16); None where it has none."""
    tensors: tuple[tuple[tuple[str, int, bool], ...], ...]
    """Attribute, number and whether it is a buffer, of each module's own tensors; made only with `no_placement`."""


def tree_of(module: nn.Module) -> Tree:
    """The tree of a module, in time that grows with its modules and names.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        RecursionError: A registered cycle, or modules within modules deeper than Python recurses.
        Endless: Aliases that make more paths than can be walked.
    """
    sight = Sight(module)
    graph = sight.graph
    objects = graph.parameters[0]
    paths.check(sight.extent())
    if graph.several():
        paths.check(sight.extent(once=True))
    found = _paths(graph)
    children = _children(graph)
    tied = bool(repeated(map(id, objects))) or bool(graph.several() and sight.extent().names > len(objects))
    entries = _parameters(graph, found)
    firsts: dict[str, str] = {}
    names: tuple[str, ...] = ()
    if tied:
        first = {id(entry.tensor): entry.name for entry in entries}
        every = dict(module.named_parameters(remove_duplicate=False))
        names = tuple(every)
        firsts = {name: first[id(tensor)] for name, tensor in every.items() if first[id(tensor)] != name}
    return Tree(
        tuple([type(m).__name__ for m in graph.modules]),
        tuple(found),
        children,
        tuple([_labels(m._parameters.items()) for m in graph.modules]),
        _labels(module._buffers.items()),
        (*entries, *_buffers(graph, found)),
        names,
        tuple([entry.name for entry in entries]) if tied else (),
        firsts,
        found_again(graph) if tied else (),
        _declared(module),
        _words(module, "_no_split_modules"),
        _words(module, "_no_placement_params"),
        _tensors(graph) if getattr(module, "_no_placement_params", None) is not None else (),
    )


def groups_of(tree: Tree) -> Groups:
    """The groups of names that are one parameter, which is what accelerate from 0.34 finds; in our order."""
    held: dict[str, list[str]] = {}
    for name, first in tree.firsts.items():
        held.setdefault(first, [first]).append(name)
    return ordered(held.values())


def declared_groups(tree: Tree) -> Groups:
    """The groups that a transformers model declares, in our order; what of them is really tied is not asked."""
    held: dict[str, list[str]] = {}
    for target, source in (tree.declared or {}).items():
        held.setdefault(source, [source]).append(target)
    return ordered(held.values())


def _paths(graph: ModuleGraph) -> list[str]:
    """The first path of each module."""
    parents, labels = graph._parent, graph._label
    found = [""]
    for number in range(1, len(parents)):
        above = found[parents[number]]
        found.append(f"{above}.{labels[number]}" if above else labels[number])
    return found


def _children(graph: ModuleGraph) -> tuple[tuple[tuple[str, int], ...], ...]:
    """What `named_children()` lists of each module, with the numbers of the children."""
    several = graph.several()
    if not several:
        listed: list[list[tuple[str, int]]] = [[] for _ in graph.modules]
        for number in range(1, len(graph.modules)):
            listed[graph._parent[number]].append((graph._label[number], number))
        return tuple(map(tuple, listed))
    index = {id(module): number for number, module in enumerate(graph.modules)}
    return tuple(
        tuple([(label, index[id(child)]) for label, child in paths.children(module, once=True)])
        for module in graph.modules
    )


def _labels(items: Iterable[tuple[str, Any]]) -> tuple[str, ...]:
    """The attributes of tensors, each tensor once."""
    seen: set[int] = set()
    found = []
    for label, tensor in items:
        if tensor is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            found.append(label)
    return tuple(found)


def _parameters(graph: ModuleGraph, found: list[str]) -> list[Entry]:
    """What `named_parameters()` lists."""
    seen: set[int] = set()
    entries = []
    for tensor, owner, label in zip(*graph.parameters, strict=True):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            entries.append(Entry(f"{found[owner]}.{label}" if owner else label, tensor, False))
    return entries


def _buffers(graph: ModuleGraph, found: list[str]) -> list[Entry]:
    """What `named_buffers()` lists."""
    seen: set[int] = set()
    entries = []
    for path, module in zip(found, graph.modules, strict=True):
        for label, tensor in module._buffers.items():
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
