"""The units that a plan of ours moves as one, and the device map that says where each of these goes.

A module of a no-split class is one unit, with everything below it; otherwise a module without children is. A module
that holds both tensors and children stays whole where it looks like a layer: accelerate's hooks (1.15,
`attach_align_device_hook_on_blocks`) go by modules and pass over a key that is a parameter's name, so that such a
tensor must lie where its module computes. `Units.apart` marks what is left of that kind. Units are joined where they
share a tensor.

A map is what transformers and accelerate take; measured on accelerate 1.15 (`check_device_map`, `dispatch_model`) and
transformers 5.23 (`expand_device_map`):

- Every name of the state dict must be covered, those of aliases too. A key that is a parameter's name, or the path of
  an alias (`named_modules()` has each module once), is taken and does its work; accelerate warns that it matches no
  submodule. A parent's key covers an alias without a word, so that a module is split no further than it must be.
- The empty key with `disk` ends in a FileNotFoundError of `dispatch_model` (its `extract_submodules_state_dict` looks
  for names that begin with a dot): the children are named one by one.
- No key stands below another: transformers matches keys as beginnings of texts, the longest first, and accelerate moves
  everything below a key to its device before it looks at the keys below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tiecheck.records.placement import ModuleTree
from tiecheck.union_find import DisjointParts

LISTS = frozenset({"ModuleList", "ModuleDict", "Sequential"})
"""Classes that hold layers: a module with one of them inside is no layer."""

LAYER = 8
"""Size that an attention with tensors of its own may have, in those of the biggest module without children."""


class Item(NamedTuple):
    """Units that share tensors: they go together, and what they share counts once."""

    units: tuple[int, ...]
    """The units, in order."""
    nbytes: int
    layer: int
    """Bytes of the biggest of its units: what has to fit beside the rest where it is brought in for a forward pass."""
    names: tuple[str, ...]
    """Two names of a tensor that two of its units share; empty for a single unit."""


class Units(NamedTuple):
    """The units of a tree and how they hang together."""

    apart: tuple[bool, ...]
    """For each unit, in the order of registration, whether it is a module's own tensors without its children."""
    items: tuple[Item, ...]
    """Every unit in one item, in the order of each item's first unit."""
    home: tuple[int, ...]
    """For each node its unit; -1 for one whose children are apart."""
    own: dict[int, int]
    """For such a node that has tensors of its own the unit of these."""


def units_of(tree: ModuleTree, groups: Iterable[Sequence[str]], no_split: Iterable[str]) -> Units:
    """Cut a tree into units and join those that share a tensor, in time that grows with nodes and names.

    Args:
        tree: The modules.
        groups: Names that are, or will be, one tensor, beside those that the tree itself shows. Names it does not have
            are passed over.
        no_split: Classes whose modules stay whole.
    """
    whole = _whole(tree, frozenset(no_split))
    units: list[bool] = []
    home = [-1] * len(tree.nodes)
    own: dict[int, int] = {}
    for number, node in enumerate(tree.nodes):
        if node.parent >= 0 and home[node.parent] >= 0:
            home[number] = home[node.parent]
        elif whole[number]:
            home[number] = len(units)
            units.append(False)
        elif node.tensors:
            own[number] = len(units)
            units.append(True)
    tensors = DisjointParts(len(tree.sizes))
    wanted = [tuple(group) for group in groups]
    known = tree.numbers() if wanted else {}
    for group in wanted:
        first, *others = [known[name] for name in group if name in known] or [0]
        for number in others:
            tensors.join(first, number)
    items = _items(tree, units, home, own, tensors)
    return Units(tuple(units), items, tuple(home), own)


def _whole(tree: ModuleTree, no_split: frozenset[str]) -> list[bool]:
    """Return which nodes stay whole if nothing above them does."""
    nodes, ends = tree.nodes, tree.ends()
    count = len(nodes)
    sizes, kept, lists = [0] * count, [False] * count, [False] * count
    seen: set[int] = set()
    for number, node in enumerate(nodes):
        for tensor in node.tensors:
            if tensor.number not in seen:
                seen.add(tensor.number)
                sizes[number] += tree.sizes[tensor.number]
    for number in range(count - 1, -1, -1):
        parent = nodes[number].parent
        kept[number] |= nodes[number].class_name in no_split
        lists[number] |= nodes[number].class_name in LISTS
        if parent >= 0:
            sizes[parent] += sizes[number]
            kept[parent] |= kept[number]
            lists[parent] |= lists[number]
    layer = [ends[n] == n + 1 or nodes[n].class_name in no_split for n in range(count)]
    largest = max((sizes[n] for n in range(count) if layer[n]), default=0)
    for number in range(1, count):
        if nodes[number].tensors and not kept[number]:
            layer[number] |= sizes[number] <= largest * (1 if lists[number] else LAYER)
    return layer


def _items(
    tree: ModuleTree, units: list[bool], home: list[int], own: dict[int, int], tensors: DisjointParts
) -> tuple[Item, ...]:
    sizes: dict[int, int] = {}
    for number, nbytes in enumerate(tree.sizes):
        one = tensors.find(number)
        sizes[one] = max(sizes.get(one, 0), nbytes)
    joined = DisjointParts(len(units))
    holds: list[dict[int, str]] = [{} for _ in units]
    first: dict[int, tuple[int, int, str]] = {}
    shared: dict[int, list[str]] = {}
    for number, node in enumerate(tree.nodes):
        unit = home[number] if home[number] >= 0 else own.get(number, -1)
        for tensor in node.tensors:
            one = tensors.find(tensor.number)
            holds[unit].setdefault(one, tensor.attribute)
            before, place, attribute = first.setdefault(one, (unit, number, tensor.attribute))
            if before != unit:
                joined.join(before, unit)
                if one not in shared:
                    shared[one] = [tree.path(place, attribute), tree.path(number, tensor.attribute)]
    members: dict[int, list[int]] = {}
    for unit in range(len(units)):
        members.setdefault(joined.find(unit), []).append(unit)
    return tuple(_item(tuple(group), holds, sizes, shared) for group in members.values())


def _item(
    group: tuple[int, ...], holds: list[dict[int, str]], sizes: dict[int, int], shared: dict[int, list[str]]
) -> Item:
    layer = max(sum(sizes[one] for one in holds[unit]) for unit in group)
    if len(group) == 1:
        return Item(group, layer, layer, ())
    together = {one for unit in group for one in holds[unit]}
    names = next((shared[one] for one in sorted(together) if one in shared), [])
    return Item(group, sum(sizes[one] for one in together), layer, tuple(names))


_NONE, _MIXED = -1, -2


def map_of(tree: ModuleTree, units: Units, slots: Sequence[int], keys: Sequence[int | str]) -> dict[str, int | str]:
    """Return the shortest map that says where everything is: path -> device, in the order of registration.

    Each unit has the number of its device among the keys. Modules without tensors have a key too where their parent
    has none; an alias only where there is a tensor in it.
    """
    nodes, ends = tree.nodes, tree.ends()
    common = _common(tree, units, slots)
    if common[0] >= 0 and keys[common[0]] == "disk" and not nodes[0].tensors and len(nodes) > 1:
        common[0] = _MIXED
    found: dict[str, int | str] = {}
    number = 0
    while number < len(nodes):
        device = common[number]
        if device == _MIXED:
            if number in units.own:
                device = slots[units.own[number]]
                for tensor in nodes[number].tensors:
                    if tensor.persistent or keys[device] != "cpu":  # where a load puts the others by itself
                        found[tree.path(number, tensor.attribute)] = keys[device]
            number += 1
            continue
        if device == _NONE and not nodes[number].alias:
            device = _first(units, slots, number, ends[number])
        if device != _NONE:
            found[tree.path(number)] = keys[device]
        number = ends[number]
    return found


def _common(tree: ModuleTree, units: Units, slots: Sequence[int]) -> list[int]:
    """For each node the device that everything in it has; no device where no tensor is in it."""
    common = [_NONE] * len(tree.nodes)
    for number in range(len(tree.nodes) - 1, -1, -1):
        node = tree.nodes[number]
        if node.tensors:
            unit = units.home[number] if units.home[number] >= 0 else units.own[number]
            common[number] = _both(common[number], slots[unit])
        if number:
            common[node.parent] = _both(common[node.parent], common[number])
    return common


def _both(a: int, b: int) -> int:
    """Return the device of two parts together."""
    if a == _NONE:
        return b
    return a if b in (_NONE, a) else _MIXED


def _first(units: Units, slots: Sequence[int], number: int, end: int) -> int:
    """Return the device where the first unit of a subtree without tensors was laid."""
    return next((slots[units.home[n]] for n in range(number, end) if units.home[n] >= 0), _NONE)
