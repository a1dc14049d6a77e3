"""Which tied names a planner takes for inside a module: those in which the module's name occurs anywhere.

accelerate 1.15 and transformers 5.23 ask `name + "." in tied + "."` (0.25: `name in tied`), so `head` is found in
`lm_head.weight`. Asking it of every module and every tied name is what makes them quadratic; here the beginnings of the
tied names stand in one sorted list, spelled backwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_LAST = "\U0010ffff"


class Relevance:
    """The tied names of a model, to be asked by a module's name."""

    def __init__(self, groups: Sequence[Sequence[str]], *, dotted: bool) -> None:
        """Index some groups.

        Args:
            groups: The tie groups, in the order in which the planner goes through them.
            dotted: Whether a module's name has to end where a part of the tied name ends.
        """
        self._groups = groups
        ends: list[tuple[str, int, int]] = []
        for number, group in enumerate(groups):
            for place, name in enumerate(group):
                stops = [end for end in range(1, len(name)) if name[end] == "."] if dotted else range(1, len(name))
                ends += [(name[:end][::-1], number, place) for end in (*stops, len(name))]
        ends.sort()
        self._ends = ends
        self._backwards = [end[0] for end in ends]
        self._known: dict[str, tuple[str, ...]] = {}

    def outside(self, name: str) -> tuple[str, ...]:
        """The tied names that a planner takes for tied to a module and outside it, in its order."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._look(name)
        return found

    def inside(self, name: str) -> dict[int, set[int]]:
        """Of each group, the places of the names that the planner takes for inside a module."""
        backwards = name[::-1]
        low = bisect_left(self._backwards, backwards)
        high = bisect_left(self._backwards, backwards + _LAST, low)
        held: dict[int, set[int]] = {}
        for _, number, place in self._ends[low:high]:
            held.setdefault(number, set()).add(place)
        return held

    def _look(self, name: str) -> tuple[str, ...]:
        held = self.inside(name)
        outside: list[str] = []
        for number in sorted(held):
            places, group = held[number], self._groups[number]
            if len(places) < len(group):
                outside += [tied for place, tied in enumerate(group) if place not in places]
        return tuple(outside)
