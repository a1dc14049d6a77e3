"""Whether a planner can have miscounted tied memory: told from the names alone, so that most models cost nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PAIRS = 200_000
"""Pairs of tied names that are looked at; with more the answer is that it can."""


def may_double(groups: Iterable[Sequence[str]]) -> bool:
    """Whether some module may hold two names that are tied to things in one other module.

    accelerate counts a module once for each tied name it looks up in it. The two modules stand side by side somewhere,
    so what decides is the pair of paths at which two tied names part.

    Args:
        groups: The tie groups as the planner sees them.
    """
    seen: dict[tuple[str, str], str] = {}
    left = PAIRS
    for group in groups:
        left -= len(group) ** 2
        if left < 0:
            return True
        for one in group:
            for other in group:
                if one != other and seen.setdefault(_parting(one, other), other) != other:
                    return True
    return False


def _parting(one: str, other: str) -> tuple[str, str]:
    """The two paths at which names part."""
    here, there = one.split("."), other.split(".")
    place = 0
    while place < min(len(here), len(there)) - 1 and here[place] == there[place]:
        place += 1
    return ".".join(here[: place + 1]), ".".join(there[: place + 1])


def may_mistake(groups: Iterable[Sequence[str]], placed: Iterable[str]) -> bool:
    """Whether a module may have been taken for tied, or not, because its name occurs inside a tied name.

    Args:
        groups: The tie groups as the planner sees them.
        placed: What was placed: nothing but these and what is above them was ever looked for.
    """
    names = [f"{name}." for group in groups for name in group]
    if not names:
        return False
    looked: set[str] = set()
    for name in placed:
        path = name
        while path and path not in looked:
            looked.add(path)
            path = path.rpartition(".")[0]
    if len(looked) * len(names) > PAIRS:
        return True
    return any(tied.find(f"{path}.", 1) >= 0 for path in looked for tied in names)
