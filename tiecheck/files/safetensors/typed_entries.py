"""The typed forms of a header entry and of an index, apart since msgspec is imported for large ones only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, cast

import msgspec


class Offsets(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """The `data_offsets` of an entry; no tuple, for the garbage collector goes through each of those."""

    start: int
    """The first byte, from the beginning of the data."""
    end: int
    """The byte after the last."""


class HeaderEntry(msgspec.Struct, gc=False):
    """One entry of a safetensors header. That no number is negative is for `quickly_sound` to see.

    A field that is not there gets a value that no entry may have. `__metadata__` decodes to one of these, is
    thrown away and decoded apart.
    """

    dtype: str = ""
    """safetensors' dtype word, e.g. `BF16`."""
    shape: tuple[int, ...] = (-1,)
    """Shape, row-major."""
    data_offsets: Offsets = Offsets(-1, -1)
    """Where its bytes are."""


class Index(msgspec.Struct, gc=False):
    """A `*.index.json`: the names, each with its file."""

    weight_map: dict[str, str]
    """Name -> file."""


def index_of(files: Iterable[str]) -> Any:
    """Return an `Index` of some files and no other: a name that is known is looked up, and not made anew each time."""
    file = Literal[tuple(files)]  # type: ignore[valid-type]  # known at run time only
    return msgspec.defstruct("IndexOf", [("weight_map", dict[str, file])], gc=False)  # type: ignore[valid-type]


HEADER = msgspec.json.Decoder(dict[str, HeaderEntry])
"""The decoder of a header."""

NOTES = msgspec.json.Decoder(dict[str, str])
"""The decoder of its `__metadata__`."""


class ReparsedEntries(Mapping[str, Any]):
    """Name -> entry, as the typed parser gives them. How many there are, the first and the last name are at hand.

    The entries of a large header that was found sound are let go again, and parsed anew where they are asked for: a
    check of a hundred thousand tensors looks at a few of them, and to keep the others took more memory than their text.
    """

    def __init__(self, raw: bytes, entries: Mapping[str, Any]) -> None:
        """Keep the text of a header, without a backslash in it, of which entries, not kept, were parsed."""
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
        """Give the names in the order of the file; the first one costs nothing."""
        yield self._ends[0]
        names = iter(self._entries())
        next(names)
        yield from names

    def __reversed__(self) -> Iterator[str]:
        """Give the names from the last to the first; the last one costs nothing."""
        yield self._ends[1]
        names = reversed(self._entries())
        next(names)
        yield from names

    def __contains__(self, name: object) -> bool:
        """Tell whether the header has a name: told by the text where it has not."""
        if not isinstance(name, str) or (self._held is None and f'"{name}"'.encode(errors="replace") not in self._raw):
            return False
        return name in self._entries()

    def __getitem__(self, name: str) -> Any:
        """Return the entry of a name."""
        return self._entries()[name]
