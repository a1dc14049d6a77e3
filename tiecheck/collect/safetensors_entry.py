"""The typed forms of a header entry and of an index, apart since msgspec is imported for large ones only."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Offsets(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """The `data_offsets` of an entry; no tuple, for the garbage collector goes through each of those."""

    start: Count
    """The first byte, from the beginning of the data."""
    end: Count
    """The byte after the last."""


class Entry(msgspec.Struct, gc=False):
    """One entry of a safetensors header.

    A field that is not there gets a value that no entry may have. `__metadata__` decodes to one of these, is
    thrown away and decoded apart.
    """

    dtype: str = ""
    """safetensors' dtype word, e.g. `BF16`."""
    shape: tuple[Count, ...] = (-1,)
    """Shape, row-major."""
    data_offsets: Offsets = Offsets(-1, -1)
    """Where its bytes are."""


class Index(msgspec.Struct, gc=False):
    """A `*.index.json`: the names, each with its file."""

    weight_map: dict[str, str]
    """Name -> file."""


HEADER = msgspec.json.Decoder(dict[str, Entry])
"""The decoder of a header."""

NOTES = msgspec.json.Decoder(dict[str, str])
"""The decoder of its `__metadata__`."""
