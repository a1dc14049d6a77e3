"""The graph of an `nn.Module`: every module once, every place where one is registered, and the names that follow.

torch's own walk (`named_parameters(remove_duplicate=False)`, torch 2.13) recurses and lists every name, so a
registered cycle ends it with RecursionError and a doubly aliased chain of depth k costs 2^k. This one visits
each module once, counts names instead of listing them, and writes out only the names it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

COUNT_LIMIT = 1 << 128
"""Counts of names stop here: a chain of 100,000 doublings has more names than its count has memory to stand in."""


class Edge(NamedTuple):
    """One registration of a module in another."""

    parent: int
    """Number of the module that registers it."""
    label: str
    """The attribute it is registered under."""


class ModuleGraph:
    """Every module below a root once, in breadth-first order, with every registration of it.

    A registration that closes a cycle is set apart: it makes names endless, but none is written through it.
    """

    def __init__(self, root: nn.Module) -> None:
        """Walk `root`.

        Args:
            root: The module to look at; it is not changed.

        Raises:
            TypeError: If `root` is no `nn.Module`.
        """
        if not isinstance(root, nn.Module):
            raise TypeError(f"a torch.nn.Module is wanted, not {type(root).__name__}")
        self.modules: list[nn.Module] = [root]
        self._parent = [-1]
        self._label = [""]
        self._extra: dict[int, list[Edge]] = {}
        self._walk()
        self._counts: dict[int, int] = {}
        self._back: set[tuple[int, Edge]] = set()
        self._endless: frozenset[int] = frozenset()
        if self._extra:
            self._count()

    def _walk(self) -> None:
        """List modules level by level; a level without a module seen before goes through C loops only."""
        modules, parents, labels = self.modules, self._parent, self._label
        index = {id(modules[0]): 0}
        low = 0
        while low < len(modules):
            level: list[nn.Module | None] = []
            level_parents: list[int] = []
            level_labels: list[str] = []
            for number in range(low, len(modules)):
                children = modules[number]._modules
                if children:
                    level += children.values()
                    level_parents += [number] * len(children)
                    level_labels += children.keys()
            low = len(modules)
            ids = list(map(id, level))
            fresh = dict(zip(ids, range(low, low + len(ids)), strict=True))
            if len(fresh) == len(ids) and index.keys().isdisjoint(ids) and id(None) not in fresh:
                index.update(fresh)
                modules += level  # type: ignore[arg-type]  # no None among them: looked at above
                parents += level_parents
                labels += level_labels
            else:
                self._add_level(index, zip(level, level_parents, level_labels, strict=True))
        self._index = index

    def _add_level(self, index: dict[int, int], level: Iterator[tuple[nn.Module | None, int, str]]) -> None:
        """Add a level in which a module is None or was seen before."""
        for module, parent, label in level:
            if module is None:
                continue
            number = index.setdefault(id(module), len(self.modules))
            if number == len(self.modules):
                self.modules.append(module)
                self._parent.append(parent)
                self._label.append(label)
            else:
                self._extra.setdefault(number, []).append(Edge(parent, label))

    def children(self, number: int) -> Iterator[tuple[str, int]]:
        """Attribute and number of each module that a module registers."""
        for label, module in self.modules[number]._modules.items():
            if module is not None:
                yield label, self._index[id(module)]

    def registrations_of(self, number: int) -> list[Edge]:
        """Every registration of a module, those that close a cycle included; the root may have none."""
        first = [] if number == 0 else [Edge(self._parent[number], self._label[number])]
        return first + self._extra.get(number, [])

    def edges(self, number: int) -> list[Edge]:
        """The registrations of a module that close no cycle."""
        if not self._back:
            return self.registrations_of(number)
        return [edge for edge in self.registrations_of(number) if (number, edge) not in self._back]

    def closing(self, number: int) -> list[Edge]:
        """The registrations of a module that close a cycle."""
        return [edge for edge in self.registrations_of(number) if (number, edge) in self._back]

    def several(self) -> list[int]:
        """The modules that are registered more than once (the root: at all), in breadth-first order."""
        return sorted(self._extra)

    def aliased(self) -> dict[int, int]:
        """Number of paths of each module at or below one of `several`; every other module has one path."""
        return self._counts

    def paths(self, number: int) -> int | None:
        """How many paths lead to a module, at most `COUNT_LIMIT`; None where a cycle makes them endless."""
        return None if number in self._endless else self._counts.get(number, 1)

    def _below(self, numbers: list[int]) -> list[int]:
        """Some modules and everything below them, in breadth-first order of the whole graph."""
        seen = set(numbers)
        stack = list(numbers)
        while stack:
            for _, child in self.children(stack.pop()):
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
        return sorted(seen)

    def _count(self) -> None:
        """Count paths by adding up, in topological order, over the part of the graph that aliasing reaches."""
        affected = self._below(self.several())
        order = self._topological(affected)
        if len(order) < len(affected):
            self._back = self._find_back(affected)
            self._endless = frozenset(self._below([number for number, _ in self._back]))
            order = self._topological(affected)
        for number in order:
            total = sum(self._counts.get(edge.parent, 1) for edge in self.edges(number))
            self._counts[number] = min(max(total, 1), COUNT_LIMIT)

    def _topological(self, affected: list[int]) -> list[int]:
        """The affected modules, parents first (Kahn); those on a cycle, and below one, are left out."""
        inside = set(affected)
        waiting = {n: sum(edge.parent in inside for edge in self.edges(n)) for n in affected}
        order = [number for number in affected if waiting[number] == 0]
        for number in order:
            for label, child in self.children(number):
                if self._back and (child, Edge(number, label)) in self._back:
                    continue
                waiting[child] -= 1
                if waiting[child] == 0:
                    order.append(child)
        return order

    def _find_back(self, affected: list[int]) -> set[tuple[int, Edge]]:
        """The registrations that close a cycle: those that lead back onto the path of a depth-first walk."""
        back: set[tuple[int, Edge]] = set()
        state: dict[int, bool] = {}  # True while on the path, False when done
        for start in affected:
            if start in state:
                continue
            state[start] = True
            stack = [(start, self.children(start))]
            while stack:
                number, rest = stack[-1]
                label, child = next(rest, ("", -1))
                if child < 0:
                    state[number] = False
                    stack.pop()
                elif state.get(child):
                    back.add((child, Edge(number, label)))
                elif child not in state:
                    state[child] = True
                    stack.append((child, self.children(child)))
        return back

    def prefixes(self, number: int, cap: int) -> list[str]:
        """The first paths of a module in the order of their names, each with its final dot; `""` for the root.

        Args:
            number: The module.
            cap: How many to list at most.

        Returns:
            Sorted prefixes, without those that turn round a cycle.
        """
        if number not in self._counts:
            parts: list[str] = []
            while number > 0:
                parts.append(self._label[number])
                number = self._parent[number]
            parts.reverse()
            return [".".join((*parts, ""))]
        return self._search(number, cap)

    def _search(self, target: int, cap: int) -> list[str]:
        """Walk down from the root through ancestors of the target alone, so that no step is in vain."""
        downward: dict[int, list[tuple[str, int]]] = {target: []}
        stack = [target]
        while stack:
            number = stack.pop()
            for edge in self.edges(number):
                if edge.parent not in downward:
                    downward[edge.parent] = []
                    stack.append(edge.parent)
                # The dot belongs to the key: "a-b." < "a." as texts, though "a" < "a-b".
                downward[edge.parent].append((edge.label + ".", number))
        for children in downward.values():
            children.sort()
        found: list[str] = []
        parts: list[str] = []
        walk = [iter([("", 0)])]
        while walk and len(found) < cap:
            label, number = next(walk[-1], ("", -1))
            if number < 0:
                walk.pop()
                if parts:
                    parts.pop()
                continue
            if number == target:
                found.append("".join((*parts, label)))
                continue
            parts.append(label)
            walk.append(iter(downward[number]))
        return found


class Registrations:
    """Every place where a module of a graph registers a parameter (and, if asked, a buffer).

    Place `r` is `objects[r]`, under `attributes[r]` of module `owners[r]`; buffers begin at `boundary`.
    """

    def __init__(self, graph: ModuleGraph, *, buffers: bool) -> None:
        """List the registrations of each module, in the order of the graph.

        Args:
            graph: The modules.
            buffers: Whether to list buffers too.
        """
        self.graph = graph
        self.objects: list[Tensor | None] = []
        self.owners: list[int] = []
        self.attributes: list[str] = []
        self._list([module._parameters for module in graph.modules])
        self.boundary = len(self.objects)
        if buffers:
            self._list([module._buffers for module in graph.modules])
        ids = list(map(id, self.objects))
        self.first: dict[int, int] = dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True))
        """Id of a tensor -> the first place that registers it."""
        none = id(None)
        self.first.pop(none, None)
        self.repeats: dict[int, list[int]] = {}
        """Id of a tensor that is registered several times -> every place after the first."""
        if len(self.first) < len(ids):
            first = self.first
            for place in [r for r, i in enumerate(ids) if i != none and first[i] != r]:
                self.repeats.setdefault(ids[place], []).append(place)

    def _list(self, registries: list[dict[str, Tensor | None]]) -> None:
        objects, owners, attributes = self.objects, self.owners, self.attributes
        for number, registry in enumerate(registries):
            if registry:
                objects += registry.values()
                owners += [number] * len(registry)
                attributes += registry.keys()

    def tensors(self) -> list[Tensor]:
        """Every distinct tensor, in the order of its first place."""
        objects = self.objects
        return [objects[place] for place in sorted(self.first.values())]  # type: ignore[misc]  # None was popped

    def places(self, tensor: Tensor) -> list[int]:
        """Every place that registers a tensor."""
        return [self.first[id(tensor)], *self.repeats.get(id(tensor), ())]

    def names(self, place: int, cap: int) -> list[str]:
        """The first names a place makes, sorted; one a path of its module."""
        attribute = self.attributes[place]
        return [prefix + attribute for prefix in self.graph.prefixes(self.owners[place], cap)]
