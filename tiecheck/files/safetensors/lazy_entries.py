"""The entries of a large header that was found sound: let go again, and parsed anew where they are asked for.

A check of a hundred thousand tensors looks at a few of them. To keep the others as objects took more memory than their
text does, and a good part of the time went into having that memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from tiecheck.files.safetensors.typed_entries import HEADER


class LateEntries(Mapping[str, Any]):
    """Name -> entry, as the typed parser gives them. How many there are, the first and the last name are at hand."""

    def __init__(self, raw: bytes, entries: Mapping[str, Any]) -> None:
        """Keep the text.

        Args:
            raw: The header's JSON, without a backslash in it.
            entries: What was parsed of it, one entry at least; not kept.
        """
        self._raw = raw
        self._count = len(entries)
        self._ends = next(iter(entries)), next(reversed(cast("dict[str, Any]", entries)))
        self._held: dict[str, Any] | None = None

    def _entries(self) -> dict[str, Any]:
        if self._held is None:
            self._held = HEADER.decode(self._raw)
            self._held.pop("__metadata__", None)
        return self._held

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        """The names in the order of the file; the first one costs nothing."""
        yield self._ends[0]
        names = iter(self._entries())
        next(names)
        yield from names

    def __reversed__(self) -> Iterator[str]:
        """The names from the last to the first; the last one costs nothing."""
        yield self._ends[1]
        names = reversed(self._entries())
        next(names)
        yield from names

    def __contains__(self, name: object) -> bool:
        """Whether the header has a name: told by the text where it has not."""
        if not isinstance(name, str) or (self._held is None and f'"{name}"'.encode(errors="replace") not in self._raw):
            return False
        return name in self._entries()

    def __getitem__(self, name: str) -> Any:
        """The entry of a name.

        Raises:
            KeyError: There is none.
        """
        return self._entries()[name]
