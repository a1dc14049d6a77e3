"""The graph of an `nn.Module`: every module once, every place where one is registered, and the names that follow.

torch's own walk (`named_parameters(remove_duplicate=False)`, torch 2.13) recurses and lists every name, so a
registered cycle ends it with RecursionError and a doubly aliased chain of depth k costs 2^k. This one visits
each module once, counts names instead of listing them, and writes out only the names it is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, compress, islice
from operator import eq
from typing import NamedTuple

from torch import Tensor, nn

COUNT_LIMIT = 1 << 128
"""Counts of names stop here: a chain of 100,000 doublings has more names than its count has memory to stand in."""



def repeated(ids: Iterable[int]) -> set[int]:
    """The numbers that come more than once; by sorting, which for numbers in rough order beats any table."""
    ordered = sorted(ids)
    return set(compress(ordered, map(eq, ordered, islice(ordered, 1, None))))


class Edge(NamedTuple):
    """One registration of a module in another."""

    parent: int
    """Number of the module that registers it."""
    label: str
    """The attribute it is registered under."""


class ModuleGraph:
    """Every module below a root once, in the order of the graph, with every registration of it.

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
        self._root = root
        self.modules: list[nn.Module] = []
        self.parameters: list[Tensor | None] = []
        """What the modules register as parameters, module by module."""
        self.starts = [0]
        """Where the parameters of each module begin, and the end of the last."""
        self._parent: list[int] = []
        self._label: list[str] = []
        self._extra: dict[int, list[Edge]] = {}
        self._index: dict[int, int] = {}
        self._back: set[tuple[int, Edge]] = set()
        self._forward: dict[int, list[Edge]] = {}
        self._counts: dict[int, int] = {}
        self._endless: frozenset[int] = frozenset()
        again: list[tuple[int, Edge]] = []
        if not self._walk(None, again):
            del self.modules[:], self.parameters[:], self.starts[1:], self._parent[:], self._label[:]
            self._walk({id(None)}, again)
        if again:
            self._index = {id(module): number for number, module in enumerate(self.modules)}
            for key, edge in again:
                self._extra.setdefault(self._index[key], []).append(edge)
            self._count()

    def _walk(self, seen: set[int] | None, again: list[tuple[int, Edge]]) -> bool:
        """List modules depth first, as they were made, which is how they lie in memory: most of the time goes there.

        To remember each module would cost as much as the walk, so the first try does not, and looks now and then
        whether one came twice; a second try then remembers them, and puts into `again` what it meets twice.

        Returns:
            Whether the walk was good: False where a module came twice in a first try.
        """
        modules, parameters, starts = self.modules, self.parameters, self.starts
        stack: list[nn.Module | None] = [self._root]
        labels, parents = [""], [-1]
        number, look = 0, 1024
        while stack:
            module, label, parent = stack.pop(), labels.pop(), parents.pop()
            if module is None:
                continue
            if seen is not None:
                if id(module) in seen:
                    again.append((id(module), Edge(parent, label)))
                    continue
                seen.add(id(module))
            elif number == look:
                if repeated(map(id, modules)):
                    return False
                look *= 2
            modules.append(module)
            self._parent.append(parent)
            self._label.append(label)
            attributes = module.__dict__  # not by getattr: `nn.Module.__getattr__` makes that slow
            held = attributes["_parameters"]
            if held:
                parameters += held.values()
            starts.append(len(parameters))
            held = attributes["_modules"]
            if held:
                stack += held.values()
                labels += held.keys()
                parents += [number] * len(held)
            number += 1
        return seen is not None or not repeated(map(id, modules))

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
        """The modules that are registered more than once (the root: at all), in the order of the graph."""
        return sorted(self._extra)

    def aliased(self) -> dict[int, int]:
        """Number of paths of each module at or below one of `several`; every other module has one path."""
        return self._counts

    def paths(self, number: int) -> int | None:
        """How many paths lead to a module, at most `COUNT_LIMIT`; None where a cycle makes them endless."""
        return None if number in self._endless else self._counts.get(number, 1)

    def _below(self, numbers: list[int]) -> list[int]:
        """Some modules and everything below them, in the order of the graph."""
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
        self.firsts = list(range(len(self.objects)))
        """The first place of each distinct tensor."""
        self.repeats: dict[int, list[int]] = {}
        """First place of a tensor that is registered several times -> every place of it."""
        ids = list(map(id, self.objects))
        several = repeated(ids)
        if several or id(None) in ids:
            several.add(id(None))
            by_id: dict[int, list[int]] = {}
            for place in [place for place, key in enumerate(ids) if key in several]:
                by_id.setdefault(ids[place], []).append(place)
            by_id.pop(id(None), None)
            self.repeats = {places[0]: places for places in by_id.values()}
            self.firsts = [place for place, key in enumerate(ids) if key not in several]
            self.firsts = sorted([*self.firsts, *self.repeats])

    def tensors(self) -> list[Tensor]:
        """Every distinct tensor, in the order of `firsts`."""
        objects = self.objects
        return [objects[place] for place in self.firsts]  # type: ignore[misc]  # None was left out

    def places(self, first: int) -> list[int]:
        """Every place of the tensor of a first place."""
        return self.repeats.get(first) or [first]

    def registered(self, place: int) -> tuple[int, str]:
        """The module that registers a place, and the attribute there."""
        number = bisect_right(self._starts, place) - 1
        offset = place - self._starts[number]
        keys = self._keys.get(number)
        if keys is None:
            attributes = self.graph.modules[number % len(self.graph.modules)].__dict__
            keys = list(attributes["_parameters" if place < self.boundary else "_buffers"].keys())
            if len(keys) > 1:
                self._keys[number] = keys
        return number % len(self.graph.modules), keys[offset]

    def owned(self) -> Iterator[tuple[int, int]]:
        """Number of a module and of each place it registers."""
        modules = len(self.graph.modules)
        for k, start in enumerate(self._starts[:-1]):
            for place in range(start, self._starts[k + 1]):
                yield k % modules, place
