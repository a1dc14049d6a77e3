"""The graph of an `nn.Module`: every module once, every place where one is registered, and the names that follow.

torch's own walk (`named_parameters(remove_duplicate=False)`, torch 2.13) recurses and lists every name, so a
registered cycle ends it with RecursionError and a doubly aliased chain of depth k costs 2^k. This one visits
each module once, counts names instead of listing them, and writes out only the names it is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, compress, islice
from operator import is_not
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
        self.parameters: list[Tensor | None] = []
        """What the modules register as parameters, module by module."""
        self.starts = [0]
        """Where the parameters of each module begin, and the end of the last."""
        self._parent = [-1]
        self._label = [""]
        self._extra: dict[int, list[Edge]] = {}
        self._index: dict[int, int] = {}
        self._back: set[tuple[int, Edge]] = set()
        self._forward: dict[int, list[Edge]] = {}
        self._counts: dict[int, int] = {}
        self._endless: frozenset[int] = frozenset()
        again = self._walk()
        if again:
            self._index = {id(module): number for number, module in enumerate(self.modules)}
            for key, edge in again:
                self._extra.setdefault(self._index[key], []).append(edge)
            self._count()

    def _walk(self) -> list[tuple[int, Edge]]:
        """List modules level by level; return each further registration of a module, by the module's id.

        A module's memory is touched once, for its modules and its parameters: the rest of the time goes there.
        """
        modules, parameters, starts = self.modules, self.parameters, self.starts
        again: list[tuple[int, Edge]] = []
        seen = {id(None), id(modules[0])}
        low = 0
        while low < len(modules):
            level: list[nn.Module | None] = []
            parents: list[int] = []
            labels: list[str] = []
            for number in range(low, len(modules)):
                attributes = modules[number].__dict__  # not by getattr: `nn.Module.__getattr__` makes that slow
                held = attributes["_parameters"]
                if held:
                    parameters += held.values()
                starts.append(len(parameters))
                held = attributes["_modules"]
                if held:
                    level += held.values()
                    labels += held.keys()
                    parents += [number] * len(held)
            low = len(modules)
            if self._fresh(list(map(id, level)), seen):
                modules += level  # type: ignore[arg-type]  # id(None) is among the seen
                self._parent += parents
                self._label += labels
            else:
                self._add(zip(level, map(Edge, parents, labels), strict=True), seen, again)
        return again

    def _fresh(self, ids: list[int], seen: set[int]) -> bool:
        """Whether no module of a level was seen before, nor comes twice in it; if so, they are seen now."""
        if 4 * len(ids) < len(seen):
            fresh = seen.isdisjoint(ids) and len(set(ids)) == len(ids)
            if fresh:
                seen.update(ids)
            return fresh
        before = len(seen)
        seen.update(ids)  # one pass instead of three; where it was wrong, undone at a cost the level's width bounds
        if len(seen) == before + len(ids):
            return True
        seen.clear()
        seen.update(map(id, self.modules))
        seen.add(id(None))
        return False

    def _add(
        self, level: Iterator[tuple[nn.Module | None, Edge]], seen: set[int], again: list[tuple[int, Edge]]
    ) -> None:
        """Add a level in which a module is None or was seen before."""
        for module, edge in level:
            if module is None:
                continue
            if id(module) in seen:
                again.append((id(module), edge))
                continue
            seen.add(id(module))
            self.modules.append(module)
            self._parent.append(edge.parent)
            self._label.append(edge.label)

    def children(self, number: int, *, closing: bool = True) -> Iterator[tuple[str, int]]:
        """Attribute and number of each module that a module registers; without those that close a cycle, if asked."""
        for label, module in self.modules[number]._modules.items():
            if module is not None:
                child = self._index[id(module)]
                if closing or not self._back or (child, Edge(number, label)) not in self._back:
                    yield label, child

    def registrations_of(self, number: int) -> list[Edge]:
        """Every registration of a module, those that close a cycle included; the root may have none."""
        first = [] if number == 0 else [Edge(self._parent[number], self._label[number])]
        return first + self._extra.get(number, [])

    def edges(self, number: int) -> list[Edge]:
        """The registrations of a module that close no cycle."""
        found = self._forward.get(number)
        return self.registrations_of(number) if found is None else found

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
        self._forward = {number: self.registrations_of(number) for number in affected}
        order = self._topological(affected)
        if len(order) < len(affected):
            self._back = self._find_back(affected)
            for number in {number for number, _ in self._back}:
                self._forward[number] = [e for e in self._forward[number] if (number, e) not in self._back]
            self._endless = frozenset(self._below([number for number, _ in self._back]))
            order = self._topological(affected)
        counts = self._counts
        for number in order:
            total = sum([counts.get(parent, 1) for parent, _ in self._forward[number]])
            counts[number] = min(max(total, 1), COUNT_LIMIT)

    def _topological(self, affected: list[int]) -> list[int]:
        """The affected modules, parents first (Kahn); those on a cycle, and below one, are left out."""
        inside = self._forward
        waiting = {n: sum([parent in inside for parent, _ in inside[n]]) for n in affected}
        order = [number for number in affected if waiting[number] == 0]
        for number in order:
            for _, child in self.children(number, closing=False):
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
        return self._search(number, cap) if number in self._counts else [self.path(number, "")]

    def path(self, number: int, attribute: str) -> str:
        """The name of an attribute of a module by the module's first registration, and that of each above it."""
        parts = [attribute]
        labels, parents = self._label, self._parent
        while number:
            parts.append(labels[number])
            number = parents[number]
        parts.reverse()
        return ".".join(parts)

    def _search(self, target: int, cap: int) -> list[str]:
        """Walk down from the root through ancestors of the target alone, so that no step is in vain."""
        downward: dict[int, list[tuple[str, int]]] = {target: []}
        stack = [target]
        while stack:
            number = stack.pop()
            for parent, label in self.edges(number):
                if parent not in downward:
                    downward[parent] = []
                    stack.append(parent)
                # The dot belongs to the key: "a-b." < "a." as texts, though "a" < "a-b".
                downward[parent].append((label + ".", number))
        found: list[str] = []
        parts: list[str] = []
        walk = [iter([("", 0)])]
        while walk and len(found) < cap:
            label, number = next(walk[-1], ("", -1))
            if number < 0:
                walk.pop()
                if parts:
                    parts.pop()
            elif number == target:
                found.append("".join((*parts, label)))
            else:
                parts.append(label)
                walk.append(iter(sorted(downward[number])))
        return found


class Registrations:
    """Every place where a module of a graph registers a parameter (and, if asked, a buffer), numbered from 0."""

    def __init__(self, graph: ModuleGraph, *, buffers: bool) -> None:
        """List the registrations of each module, in the order of the graph.

        Args:
            graph: The modules.
            buffers: Whether to list buffers too.
        """
        self.graph = graph
        self.objects: list[Tensor | None] = graph.parameters
        """What each place holds."""
        self.boundary = len(graph.parameters)
        """The first place of a buffer."""
        self._starts = graph.starts
        if buffers:
            registries = [module._buffers for module in graph.modules]
            self.objects = [*graph.parameters, *chain.from_iterable(held.values() for held in registries)]
            self._starts = [*graph.starts, *islice(accumulate(map(len, registries), initial=self.boundary), 1, None)]
        self._keys: dict[int, list[str]] = {}
        places = list(range(len(self.objects)))
        ids = list(map(id, self.objects))
        self.last: dict[int, int] = dict(zip(ids, places, strict=True))
        """Id of a tensor -> the last place that registers it."""
        self.repeats: dict[int, list[int]] = {}
        """Id of a tensor that is registered several times -> every place but the last."""
        if len(self.last) < len(ids):
            for place in compress(places, map(is_not, map(self.last.__getitem__, ids), places)):
                self.repeats.setdefault(ids[place], []).append(place)
        self.last.pop(id(None), None)
        self.repeats.pop(id(None), None)

    def tensors(self) -> list[Tensor]:
        """Every distinct tensor, always in one order."""
        objects = self.objects
        return [objects[place] for place in self.last.values()]  # type: ignore[misc]  # None was popped

    def places(self, key: int) -> list[int]:
        """Every place that registers the tensor of an id."""
        last = self.last[key]
        return [*self.repeats[key], last] if key in self.repeats else [last]

    def registered(self, place: int) -> tuple[int, str]:
        """The module that registers a place, and the attribute there."""
        number = bisect_right(self._starts, place) - 1
        offset = place - self._starts[number]
        keys = self._keys.get(number)
        if keys is None:
            module = self.graph.modules[number % len(self.graph.modules)]
            keys = list((module._parameters if place < self.boundary else module._buffers).keys())
            if len(keys) > 1:
                self._keys[number] = keys
        return number % len(self.graph.modules), keys[offset]

    def owned(self) -> Iterator[tuple[int, int]]:
        """Number of a module and of each place it registers."""
        modules = len(self.graph.modules)
        for k, start in enumerate(self._starts[:-1]):
            for place in range(start, self._starts[k + 1]):
                yield k % modules, place
