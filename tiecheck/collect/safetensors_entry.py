"""The typed forms of a header entry and of an index, apart since msgspec is imported for large ones only."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Entry(msgspec.Struct, gc=False):
    """One entry of a safetensors header.

    A field that is not there gets a value that no entry may have. `__metadata__` decodes to one of these and is
    thrown away before anyone looks at it.
    """

    dtype: str = ""
    """safetensors' dtype word, e.g. `BF16`."""
    shape: tuple[Count, ...] = (-1,)
    """Shape, row-major."""
    data_offsets: tuple[Count, Count] = (-1, -1)
    """First byte and the byte after the last, from the beginning of the data."""


class Index(msgspec.Struct, gc=False):
    """A `*.index.json`: the names, each with its file."""

    weight_map: dict[str, str]
    """Name -> file."""
