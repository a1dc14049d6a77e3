"""Things that belong together, joined pair by pair: a union-find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class DisjointParts:
    """The first so many numbers in parts that are joined one by one."""

    def __init__(self, size: int) -> None:
        """Begin with a part for each number."""
        self._up = list(range(size))

    def find(self, number: int) -> int:
        """Return the smallest number of a number's part, which stands for it."""
        up = self._up
        while up[number] != number:
            up[number] = up[up[number]]
            number = up[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Make one part of two."""
        one, other = self.find(one), self.find(other)
        self._up[max(one, other)] = min(one, other)

    def groups(self) -> list[list[int]]:
        """Return the parts, each sorted, by their first member."""
        found: dict[int, list[int]] = {}
        for number in range(len(self._up)):
            found.setdefault(self.find(number), []).append(number)
        return list(found.values())


def joined_names(pairs: Iterable[Sequence[str]]) -> list[list[str]]:
    """Return the names in the parts that pairs of them make, in the order in which they come."""
    numbers: dict[str, int] = {}
    links = [(numbers.setdefault(one, len(numbers)), numbers.setdefault(other, len(numbers))) for one, other in pairs]
    parts = DisjointParts(len(numbers))
    for one, other in links:
        parts.join(one, other)
    names = list(numbers)
    return [[names[number] for number in part] for part in parts.groups()]
