"""The experts of a mixture, which transformers 5 joins into one tensor on load, and fails where one lacks a part."""

from __future__ import annotations

from collections.abc import Iterable

MARK = ".experts."


def lacking_expert(names: Iterable[str]) -> str | None:
    """Return the first name that a layer's other experts have and one of them lacks; None where each has all.

    Args:
        names: The stored names.
    """
    held: dict[str, dict[str, set[int]]] = {}
    for name in names:
        before, mark, rest = name.partition(MARK)
        number, _, last = rest.partition(".")
        if mark and number.isdigit():
            held.setdefault(before, {}).setdefault(last, set()).add(int(number))
    for before, parts in held.items():
        every = set().union(*parts.values())
        for last, there in parts.items():
            if there != every:
                return f"{before}{MARK}{min(every - there)}.{last}"
    return None
