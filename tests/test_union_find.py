"""Things joined pair by pair."""

from __future__ import annotations

import random

from tiecheck.union_find import DisjointParts, joined_names


def test_parts_are_those_of_a_walk_over_the_pairs() -> None:
    draw = random.Random(0)
    for size in (1, 2, 7, 40):
        pairs = [(draw.randrange(size), draw.randrange(size)) for _ in range(size // 2)]
        parts = DisjointParts(size)
        for one, other in pairs:
            parts.join(one, other)
        held = {number: {number} for number in range(size)}
        for one, other in pairs:
            whole = held[one] | held[other]
            held.update(dict.fromkeys(whole, whole))
        assert parts.groups() == sorted(map(list, {tuple(sorted(part)) for part in held.values()}))
        assert all(parts.find(number) == min(held[number]) for number in range(size))


def test_names_come_in_their_order() -> None:
    assert joined_names([("c", "a"), ("x", "y"), ("b", "c")]) == [["c", "a", "b"], ["x", "y"]]
    assert joined_names([]) == []
