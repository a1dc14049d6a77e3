"""The typed forms of a header entry and of an index, apart since msgspec is imported for large ones only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec


class Offsets(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """The `data_offsets` of an entry; no tuple, for the garbage collector goes through each of those."""

    start: int
    """The first byte, from the beginning of the data."""
    end: int
    """The byte after the last."""


class Entry(msgspec.Struct, gc=False):
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
    """An `Index` of some files and no other: a name that is known is looked up, and not made anew each time."""
    file = Literal[tuple(files)]  # type: ignore[valid-type]  # known at run time only
    return msgspec.defstruct("IndexOf", [("weight_map", dict[str, file])], gc=False)  # type: ignore[valid-type]


HEADER = msgspec.json.Decoder(dict[str, Entry])
"""The decoder of a header."""

NOTES = msgspec.json.Decoder(dict[str, str])
"""The decoder of its `__metadata__`."""
