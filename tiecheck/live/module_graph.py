"""The graph of an `nn.Module`: every module once, every place where one is registered, and the names that follow.

torch's own walk (`named_parameters(remove_duplicate=False)`, torch 2.13) recurses and lists every name, so a
registered cycle ends it with RecursionError and a doubly aliased chain of depth k costs 2^k. This one visits
each module once, counts names instead of listing them, and writes out only the names it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import compress, islice
from operator import eq
from typing import NamedTuple

from torch import Tensor, nn

CAP = 32
"""Names a group lists; `names_total` says how many there are."""

COUNT_LIMIT = 1 << 128
"""Counts of names stop here: a chain of 100,000 doublings has more names than its count has memory to stand in."""


def repeated_numbers(ids: Iterable[int]) -> set[int]:
    """Return the numbers that come more than once; by sorting, which for numbers in rough order beats any table."""
    ordered = sorted(ids)
    return set(compress(ordered, map(eq, ordered, islice(ordered, 1, None))))


class Edge(NamedTuple):
    """One registration of a module in another."""

    parent: int
    """Number of the module that registers it."""
    label: str
    """The attribute it is registered under."""


class ModuleGraph:
    """Every module below a root, parents first, with every registration of it.

    A registration that closes a cycle is set apart: it makes names endless, but none is written through it.
    """

    def __init__(self, root: nn.Module, *, exact: bool = True) -> None:
        """Walk a module, which is not changed; what is none raises a `TypeError`.

        `exact` remembers every module from the start. Otherwise that is done only where a look now and then finds that
        a module came twice, and the caller is to look again (`exact`).
        """
        if not isinstance(root, nn.Module):
            raise TypeError(f"a torch.nn.Module is wanted, not {type(root).__name__}")
        self.modules: list[nn.Module]
        """Each module once; where `exact` is false, one without tensors below may stand here several times."""
        self.parameters: tuple[list[Tensor], list[int], list[str]]
        """Parameters that the modules register, by which module, under which attribute; three columns."""
        self._parent: list[int]
        self._label: list[str]
        self._extra: dict[int, list[Edge]] = {}
        self._back: set[tuple[int, Edge]] = set()
        self._forward: dict[int, list[Edge]] = {}
        self._counts: dict[int, int] = {}
        self._endless: frozenset[int] = frozenset()
        self._latest: tuple[int, int, list[str]] = (-1, 0, [])
        again = None if exact else self._walk(root, None)
        self.exact = again is None
        """True if a module that came twice was recognised as such; else it has a number for each registration."""
        if again is None:
            again = self._walk(root, {})
        if again:
            for key, edge in again:
                self._extra.setdefault(self._index[key], []).append(edge)
            self._count()

    def _walk(  # noqa: C901  # one loop: a call a module would double its cost
        self, root: nn.Module, seen: dict[int, None] | None
    ) -> list[tuple[int, Edge]] | None:
        """List modules depth first, which is how they lie in memory: most of the time goes there.

        To remember every module costs a quarter of the walk, so a try can do without (`seen` None). It looks now and
        then whether a module came twice, and then gives up with None, so that no cycle and no chain of doublings keeps
        it. Else each further registration of a module comes back, by the module's id.
        """
        self.modules, self._parent, self._label, self.parameters = [], [], [], ([], [], [])
        modules, parents, labels = self.modules, self._parent, self._label
        parameters, owners, names = self.parameters
        again: list[tuple[int, Edge]] = []
        above: Iterable[tuple[str, nn.Module | None]] = [("", root)]
        rest, parent, number, look = iter(above), -1, 0, 1024
        stack: list[tuple[Iterator[tuple[str, nn.Module | None]], int]] = []
        while True:
            for label, module in rest:
                if module is None:
                    continue
                if seen is not None:
                    if id(module) in seen:
                        again.append((id(module), Edge(parent, label)))
                        continue
                    seen[id(module)] = None
                modules.append(module)
                parents.append(parent)
                labels.append(label)
                attributes = module.__dict__  # not by getattr: `nn.Module.__getattr__` makes that slow
                for name, parameter in attributes["_parameters"].items():
                    if parameter is not None:
                        parameters.append(parameter)
                        owners.append(number)
                        names.append(name)
                number += 1
                held = attributes["_modules"]
                if held:
                    stack.append((rest, parent))
                    rest, parent = iter(held.items()), number - 1
                    break
            else:
                if not stack:
                    return again
                rest, parent = stack.pop()
            if seen is None and number >= look:
                look *= 16
                if len(set(map(id, modules))) < number:
                    return None

    @cached_property
    def _index(self) -> dict[int, int]:
        """Number of each module by its id."""
        return {id(module): number for number, module in enumerate(self.modules)}

    def children(self, number: int, *, closing: bool = True, once: bool = False) -> Iterator[tuple[str, int]]:
        """Yield attribute and number of each module that a module registers, in order.

        Without `closing` the registrations that close a cycle are left out, with `once` what it registers a second time
        (torch's `named_children`).
        """
        held: Iterable[tuple[str, nn.Module | None]] = self.modules[number]._modules.items()
        if once:
            firsts: dict[int, tuple[str, nn.Module | None]] = {}
            for label, module in held:
                firsts.setdefault(id(module), (label, module))
            held = firsts.values()
        for label, module in held:
            if module is not None:
                child = self._index[id(module)]
                if closing or not self._back or (child, Edge(number, label)) not in self._back:
                    yield label, child

    def registrations_of(self, number: int) -> list[Edge]:
        """Return every registration of a module, those that close a cycle included; the root may have none."""
        first = [] if number == 0 else [Edge(self._parent[number], self._label[number])]
        return first + self._extra.get(number, [])

    def edges(self, number: int) -> list[Edge]:
        """Return the registrations of a module that close no cycle."""
        found = self._forward.get(number)
        return self.registrations_of(number) if found is None else found

    def closing(self, number: int) -> list[Edge]:
        """Return the registrations of a module that close a cycle."""
        return [edge for edge in self.registrations_of(number) if (number, edge) in self._back]

    def several(self) -> list[int]:
        """Return the modules that are registered more than once (the root: at all), in the order of the graph."""
        return sorted(self._extra)

    def aliased(self) -> dict[int, int]:
        """Return the number of paths of each module at or below one of `several`; every other module has one path."""
        return self._counts

    def paths(self, number: int) -> int | None:
        """Count the paths that lead to a module, at most `COUNT_LIMIT`; None where a cycle makes them endless."""
        return None if number in self._endless else self._counts.get(number, 1)

    def _count(self) -> None:
        """Count paths by adding up, parents first, over the part of the graph that aliasing reaches."""
        order, self._back = self.parents_first(self.several())
        self._forward = {number: self.registrations_of(number) for number in order}
        if self._back:
            for number in {number for number, _ in self._back}:
                self._forward[number] = [e for e in self._forward[number] if (number, e) not in self._back]
            self._endless = frozenset(self.parents_first([number for number, _ in self._back])[0])
        counts = self._counts
        for number in order:
            total = sum([counts.get(parent, 1) for parent, _ in self._forward[number]])
            counts[number] = min(max(total, 1), COUNT_LIMIT)

    def parents_first(self, numbers: Iterable[int]) -> tuple[list[int], set[tuple[int, Edge]]]:
        """Order some modules and all below so that each comes after all that register it; and what closes a cycle.

        That is a registration that leads back onto the path of the walk.
        """
        back: set[tuple[int, Edge]] = set()
        order: list[int] = []
        on_path: dict[int, bool] = {}
        for start in numbers:
            if start in on_path:
                continue
            on_path[start] = True
            stack = [(start, self.children(start))]
            while stack:
                number, rest = stack[-1]
                for label, child in rest:
                    if child not in on_path:
                        on_path[child] = True
                        stack.append((child, self.children(child)))
                        break
                    if on_path[child]:
                        back.add((child, Edge(number, label)))
                else:
                    on_path[number] = False
                    order.append(number)
                    stack.pop()
        order.reverse()
        return order, back

    def prefixes(self, number: int, cap: int) -> list[str]:
        """Return the first `cap` paths of a module by name, each with its final dot; `""` for the root.

        Those that turn round a cycle are left out.
        """
        if number not in self._counts:
            return [self.path(number, "")]
        if self._latest[:2] != (number, cap):
            self._latest = number, cap, self._search(number, cap)
        return list(self._latest[2])

    def path(self, number: int, attribute: str) -> str:
        """Return the name of an attribute of a module by the module's first registration, and that of each above it."""
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
