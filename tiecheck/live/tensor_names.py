"""The names of a tensor in a module, by the object itself."""

from __future__ import annotations

from typing import Any

from tiecheck.live.module_graph import Registrations


class NamesOf:
    """Tells the names under which a module registers a tensor."""

    def __init__(self, places: Registrations, cap: int) -> None:
        self._places = places
        self._cap = cap
        self._first = {id(places.objects[first]): first for first in places.firsts}

    def of(self, tensor: Any) -> tuple[str, ...]:
        """The names of a parameter, sorted and capped; none where it is registered nowhere."""
        first = self._first.get(id(tensor))
        if first is None:
            return ()
        return tuple(sorted(name for place in self.places_of(first) for name in self.at(place))[: self._cap])

    def places_of(self, first: int) -> list[int]:
        """Every place that registers the tensor of a first place."""
        return self._places.repeats.get(first) or [first]

    def at(self, place: int) -> list[str]:
        """The names that one place makes, sorted and capped."""
        owner, attribute = self._places.owners[place], self._places.attributes[place]
        return [prefix + attribute for prefix in self._places.graph.prefixes(owner, self._cap)]
