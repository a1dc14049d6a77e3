"""What the headers are held against, as a process of its own: `python typed_headers.py DIR [index]`.

It reads every header of a directory and parses it by msgspec with typed entries, and keeps all of them; with `index`
the index too. It checks nothing. The types are a copy that stays as it is when tiecheck's own change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Offsets(msgspec.Struct, array_like=True, gc=False, frozen=True, forbid_unknown_fields=True):
    """The `data_offsets` of an entry."""

    start: Count
    end: Count


class Entry(msgspec.Struct, gc=False):
    """One entry of a header."""

    dtype: str = ""
    shape: tuple[Count, ...] = (-1,)
    data_offsets: Offsets = Offsets(-1, -1)


class Index(msgspec.Struct, gc=False):
    """An index."""

    weight_map: dict[str, str]


HEADER = msgspec.json.Decoder(dict[str, Entry])


def header_of(path: Path) -> bytes:
    """The JSON of one header."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def main() -> None:
    """Parse all."""
    root = Path(sys.argv[1])
    kept = [HEADER.decode(header_of(path)) for path in sorted(root.glob("*.safetensors"))]
    if "index" in sys.argv[2:]:
        raw = (root / "model.safetensors.index.json").read_bytes()
        assert len(msgspec.json.decode(raw, type=Index).weight_map) == sum(map(len, kept))


if __name__ == "__main__":
    main()
