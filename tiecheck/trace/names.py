"""The names by which a forward pass comes to a parameter: which of the slots that hold it was asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tiecheck.live.registrations import CAP, Registrations


class _Slots(dict[str, Any]):
    """A module's `_parameters` or `_modules` that notes who was asked for what last."""

    def __init__(self, held: dict[str, Any], number: int, last: dict[int, tuple[int, str]]) -> None:
        super().__init__(held)
        self._number, self._last = number, last

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self._last[id(value)] = self._number, key
        return value

    def values(self) -> Any:
        """Yield the values, each noted as it is taken: a loop over a list of modules asks for none by its key."""
        return (self[key] for key in tuple(self))


@contextmanager
def watched_names(places: Registrations) -> Iterator[Callable[[Tensor], tuple[str, ...]]]:
    """Note through which names a block comes to the parameters of a module; its dictionaries are put back afterwards.

    Only a module that registers a parameter, or a module that stands under several paths, is watched (`nn.Module` finds
    both in two dictionaries of its own, torch 2.13); one whose dictionaries are of another type is not.

    Yields:
        A function from a parameter to the names by which it was asked for last; none where it was not.
    """
    graph = places.graph
    last: dict[int, tuple[int, str]] = {}
    holders = {(graph.modules[owner], owner, "_parameters") for owner in places.owners}
    for number in graph.several():
        holders |= {
            (graph.modules[e.parent], e.parent, "_modules") for e in graph.registrations_of(number) if e.parent >= 0
        }
    before = []
    for module, number, which in holders:
        held = module.__dict__[which]
        if type(held) is dict:
            before.append((module, which, held))
            module.__dict__[which] = _Slots(held, number, last)

    def names_of(tensor: Tensor) -> tuple[str, ...]:
        if id(tensor) not in last:
            return ()
        owner, attribute = last[id(tensor)]
        prefixes = graph.prefixes(owner, CAP)
        by = last.get(id(graph.modules[owner])) if len(prefixes) > 1 else None
        if by is not None:
            prefixes = [f"{above}{by[1]}." for above in graph.prefixes(by[0], CAP)]
        return tuple(prefix + attribute for prefix in prefixes)

    try:
        yield names_of
    finally:
        for module, which, held in before:
            module.__dict__[which] = held
