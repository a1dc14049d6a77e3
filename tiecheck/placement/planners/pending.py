"""What a planner has still to place: modules and tensors, in order, with what was split and what went with a tie.

The planners keep a list, search it from its start for every tied name, and make a new one at every split. As nothing is
ever put but where its parent stood, the list is the walk through the model's tree less what is placed: here it is a
stack, and a name's holder is found by going down from the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from tiecheck.placement.planners.tree import Tree


class Node(NamedTuple):
    """A module or a tensor that is or was to be placed."""

    name: str
    """Its path."""
    number: int
    """The module's number in the tree; -1 for a tensor."""
    low: int
    """Where its layers begin."""
    high: int
    """Where they end."""
    order: tuple[int, ...]
    """Its place in the walk."""


class Pending:
    """The rest of a model during one plan."""

    def __init__(self, tree: Tree, no_split: frozenset[str]) -> None:
        """Begin with the root's tensors and children.

        Args:
            tree: The model.
            no_split: Class names that are not split.
        """
        self.tree = tree
        self._no_split = no_split
        self._widths: list[int] = self._count()
        self.split_up: set[str] = set()
        """What was replaced by its children."""
        self.gone: set[str] = set()
        """What was placed."""
        self._inner: dict[str, tuple[str, ...]] = {}
        self.listed: dict[str, Node] = {}
        """Everything that was ever to be placed."""
        roots = self._below("", 0, len(tree.own[0]), root=True)
        self.length = roots[-1].high if roots else 0
        """Number of positions in the row of layers."""
        self._stack = roots[::-1]

    def _count(self) -> list[int]:
        """Layers in each module."""
        tree, widths = self.tree, [1] * len(self.tree.classes)
        for number in range(len(widths) - 1, -1, -1):
            if self.whole(number):
                continue
            below = [child for _, child in tree.children[number]]
            if min(below) <= number:
                return self._count_aliased()
            widths[number] = sum([widths[child] for child in below])
        return widths

    def _count_aliased(self) -> list[int]:
        """The same where an alias stands in the tree before a module that registers it."""
        tree, widths = self.tree, [0] * len(self.tree.classes)
        stack = [0]
        while stack:
            number = stack[-1]
            split = not number or not self.whole(number)  # the root always is
            below = [child for _, child in tree.children[number]] if split else []
            waiting = [child for child in below if not widths[child]]
            if waiting:
                stack += waiting
                continue
            widths[number] = sum([widths[child] for child in below]) if below else 1
            stack.pop()
        return widths

    def whole(self, number: int) -> bool:
        """Whether a module is not to be split: it has no children, or its class is named."""
        return not self.tree.children[number] or self.tree.classes[number] in self._no_split

    def _below(
        self, name: str, number: int, low: int, order: tuple[int, ...] = (), *, root: bool = False
    ) -> list[Node]:
        """What a module is replaced by, and at the root its buffers too; listed from then on."""
        before = f"{name}." if name else ""
        found: list[Node] = []
        for label in self.tree.own[number]:
            place = len(found)
            found.append(Node(before + label, -1, place if root else low, place + 1 if root else low, (*order, place)))
        for label, child in self.tree.children[number]:
            high = low + self._widths[child]
            found.append(Node(before + label, child, low, high, (*order, len(found))))
            low = high
        for label in self.tree.root_buffers if root else ():
            found.append(Node(label, -1, low, low + 1, (*order, len(found))))
            low += 1
        for node in found:
            self.listed[node.name] = node
        return found

    def layers(self) -> Iterator[tuple[int, str, bool]]:
        """Position, path and whether it is a tensor, of every layer."""
        stack = list(self._stack)
        while stack:
            node = stack.pop()
            if node.number < 0 or self.whole(node.number):
                yield node.low, node.name, node.number < 0
                continue
            low = node.low
            below = []
            for label, child in self.tree.children[node.number]:
                below.append(Node(f"{node.name}.{label}", child, low, low + self._widths[child], ()))
                low += self._widths[child]
            stack += below[::-1]

    def pop(self) -> Node | None:
        """The next in line; None at the end."""
        stack = self._stack
        while stack:
            node = stack.pop()
            if node.name in self.split_up:
                stack += [self.listed[name] for name in self._names_below(node)][::-1]
            elif node.name not in self.gone:
                return node
        return None

    def _names_below(self, node: Node) -> list[str]:
        tree = self.tree
        labels = [*tree.own[node.number], *[label for label, _ in tree.children[node.number]]]
        return [f"{node.name}.{label}" for label in labels]

    def push(self, node: Node) -> None:
        """Put one back to the front."""
        self._stack.append(node)

    def split(self, node: Node) -> None:
        """Replace a module that is in line by its own parameters and its children."""
        self._below(node.name, node.number, node.low, node.order)
        self.split_up.add(node.name)

    def escape(self, node: Node, names: list[str]) -> None:
        """Replace a module by some of the tensors in it, by their names there; they are no layers."""
        below = [
            Node(f"{node.name}.{name}", -1, node.high, node.high, (*node.order, place))
            for place, name in enumerate(names)
        ]
        for one in below:
            self.listed[one.name] = one
        self.split_up.add(node.name)
        self._stack += below[::-1]

    def in_line(self, node: Node, current: str) -> bool:
        """Whether something that was listed is still to be placed, and not being placed just now."""
        return node.name not in self.gone and node.name not in self.split_up and node.name != current

    def holder(self, tied: str, current: str) -> Node | None:
        """The module in line that a tied name stands in; None where none does."""
        end = tied.find(".")
        while end >= 0:
            path = tied[:end]
            node = self.listed.get(path)
            if node is None:
                return None
            if path not in self.split_up:
                return node if node.number >= 0 and path != current and path not in self.gone else None
            end = tied.find(".", end + 1)
        return None

    def within(self, tied: str, current: str) -> Node | None:
        """The first in line whose name occurs anywhere in a tied name, as accelerate up to 1.2 has it."""
        found: Node | None = None
        for name in self._inside(tied):
            node = self.listed.get(name)
            if node is not None and self.in_line(node, current) and (found is None or node.order < found.order):
                found = node
        return found

    def _inside(self, tied: str) -> tuple[str, ...]:
        """Every name of the model that occurs in a tied name."""
        known = self._inner.get(tied)
        if known is None:
            ends = range(len(tied) + 1)
            pieces = {tied[low:high] for low in ends for high in range(low + 1, len(tied) + 1)}
            known = self._inner[tied] = tuple(sorted(pieces & self._every))
        return known

    @cached_property
    def _every(self) -> set[str]:
        """The name of everything that could ever be in line."""
        tree = self.tree
        found = set(tree.root_buffers)
        stack = [("", 0)]
        while stack:
            before, number = stack.pop()
            found.update([before + label for label in tree.own[number]])
            below = [(before + label, child) for label, child in tree.children[number]]
            found.update([name for name, _ in below])
            stack += [(f"{name}.", child) for name, child in below]
        return found
