"""From a placement to a device map as transformers and accelerate take it.

Measured on accelerate 1.15 (`check_device_map`, `dispatch_model`) and transformers 5.23 (`expand_device_map`):

- Every name of the state dict must be covered, those of aliases too. A key that is a parameter's name, or the path of
  an alias (`named_modules()` has each module once), is taken and does its work; accelerate warns that it matches no
  submodule. A parent's key covers an alias without a word, so that a module is split no further than it must be.
- The empty key with `disk` ends in a FileNotFoundError of `dispatch_model` (its `extract_submodules_state_dict` looks
  for names that begin with a dot): the children are named one by one.
- No key stands below another: transformers matches keys as beginnings of texts, the longest first, and accelerate moves
  everything below a key to its device before it looks at the keys below.
"""

from __future__ import annotations

from collections.abc import Sequence

from tiecheck.placement.proposal.units import Units
from tiecheck.records.module_tree import ModuleTree

_NONE, _MIXED = -1, -2


def map_of(tree: ModuleTree, units: Units, slots: Sequence[int], keys: Sequence[int | str]) -> dict[str, int | str]:
    """The shortest map that says where everything is.

    Args:
        tree: The modules.
        units: Their units.
        slots: For each unit the number of its device.
        keys: The devices, as accelerate writes them.

    Returns:
        Path -> device, in the order of registration. Modules without tensors have a key too where their parent has
        none; an alias only where there is a tensor in it.
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
    """The device of two parts together."""
    if a == _NONE:
        return b
    return a if b in (_NONE, a) else _MIXED


def _first(units: Units, slots: Sequence[int], number: int, end: int) -> int:
    """The device where the first unit of a subtree without tensors was laid."""
    return next((slots[units.home[n]] for n in range(number, end) if units.home[n] >= 0), _NONE)
