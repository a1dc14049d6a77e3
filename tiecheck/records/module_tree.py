"""The module tree of a model as plain data: what a plan is made from."""

from __future__ import annotations

from typing import NamedTuple

from tiecheck.records.record import Record


class TreeTensor(NamedTuple):
    """One attribute of a module that registers a parameter or a buffer."""

    attribute: str
    """The attribute's name."""
    number: int
    """The number of the tensor, an index of `ModuleTree.sizes`: equal numbers, one tensor."""
    persistent: bool
    """True where a state dict has it."""


class TreeNode(NamedTuple):
    """One path of a module. A module that is registered twice has two nodes, and so has everything below it."""

    parent: int
    """The node that registers it; -1 for the root."""
    label: str
    """The attribute it is registered under; empty for the root."""
    class_name: str
    """The module's class."""
    tensors: tuple[TreeTensor, ...]
    """Tensors that the module itself registers, in the order of registration, parameters first."""
    alias: bool
    """True where the module stands earlier in the tree under another path."""
    module: int = -1
    """The number of the first node of the same module."""


class ModuleTree(Record):
    """Every path of a model, parents before children, in the order of registration (depth first)."""

    nodes: tuple[TreeNode, ...]
    """The paths; the root first."""
    sizes: tuple[int, ...]
    """Bytes of each distinct tensor, in the element type it will be loaded in."""

    def path(self, node: int, attribute: str = "") -> str:
        """Return the dotted path of a node, or of an attribute there."""
        parts = [attribute] if attribute else []
        while node > 0:
            parts.append(self.nodes[node].label)
            node = self.nodes[node].parent
        return ".".join(reversed(parts))

    def paths(self) -> list[str]:
        """Return the dotted path of each node."""
        found: list[str] = []
        for node in self.nodes:
            above = found[node.parent] if node.parent >= 0 else ""
            found.append(f"{above}.{node.label}" if above else node.label)
        return found

    def numbers(self) -> dict[str, int]:
        """Return each name -> the number of its tensor."""
        pairs = zip(self.paths(), self.nodes, strict=True)
        held = ((f"{path}.", tensor) for path, node in pairs for tensor in node.tensors)
        return {(path + tensor.attribute).removeprefix("."): tensor.number for path, tensor in held}

    def ends(self) -> list[int]:
        """Return for each node the number after the last one below it."""
        ends = list(range(1, len(self.nodes) + 1))
        for number in range(len(self.nodes) - 1, 0, -1):
            parent = self.nodes[number].parent
            ends[parent] = max(ends[parent], ends[number])
        return ends
