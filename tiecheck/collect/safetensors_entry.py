"""The typed form of a header entry, in a file of its own since msgspec is imported for large headers only."""

from __future__ import annotations

import msgspec


class Entry(msgspec.Struct, gc=False):
    """One entry of a safetensors header.

    `__metadata__` decodes to one with these defaults and is thrown away before anyone looks at it.
    """

    dtype: str = ""
    """safetensors' dtype word, e.g. `BF16`."""
    shape: tuple[int, ...] = ()
    """Shape, row-major."""
    data_offsets: tuple[int, int] = (-1, -1)
    """First byte and the byte after the last, from the beginning of the data."""
