"""Safetensors files written anew without a tensor: the header changes, the data is copied by ranges in the kernel."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.local import parse_json, path_inside
from tiecheck.files.safetensors.header import read_shard
from tiecheck.records.edits import TensorChange
from tiecheck.records.record import Record

PIECE = 8 * 1024 * 1024
"""Bytes that are copied at a time where the kernel does not do it."""

DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2}
"""Bytes of an element, for those that have to be aligned; others count as one."""


class ShardLayout(Record):
    """A file to be written: its header, and which ranges of the old one follow it."""

    header: bytes
    """The first bytes, the length of the JSON included."""
    ranges: tuple[tuple[int, int], ...]
    """Begin and end of each range in the old file, in the order in which they are written."""
    names: tuple[str, ...]
    """The names in the new file."""

    @property
    def nbytes(self) -> int:
        """Bytes of the new file."""
        return len(self.header) + sum(end - begin for begin, end in self.ranges)


def new_layout(root: str, file: str, change: TensorChange) -> ShardLayout:
    """Return how a shard is written anew; a name that is not there, or a new one that is, raises a `TargetError`.

    Tensors stay in their order, unless that would leave one of them unaligned that was aligned; then the wider element
    types come first, as safetensors itself writes them.
    """
    drop, rename, copies = change.drop, change.rename, change.copies
    path = path_inside(root, file)
    shard = read_shard(path, file)
    entries = {name: _entry(entry) for name, entry in shard.entries.items()}
    lacking = sorted({*drop, *rename, *copies.values()} - entries.keys())
    present = sorted({*rename.values(), *copies} & (entries.keys() - rename.keys() - set(drop)))
    if lacking or present:
        raise TargetError(f"{file} {f'does not hold {lacking[0]}' if lacking else f'holds {present[0]} already'}", path)
    kept = [(rename.get(name, name), entry) for name, entry in entries.items() if name not in drop]
    kept += [(name, entries[source]) for name, source in copies.items()]
    kept.sort(key=lambda item: item[1][2])  # by place; a copy follows its source
    old = [begin % DTYPE_BYTES.get(dtype, 1) for _, (dtype, _, begin, _) in kept]
    if any(new and not was for new, was in zip(_misplaced(kept), old, strict=True)):
        kept.sort(key=lambda item: -DTYPE_BYTES.get(item[1][0], 1))
    at, told = 0, dict(_metadata(path))
    if change.notes:
        told["__metadata__"] = {**told.get("__metadata__", {}), **change.notes}
    for name, (dtype, shape, begin, end) in kept:
        told[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + end - begin]}
        at += end - begin
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    ranges = _joined([(shard.data_start + begin, shard.data_start + end) for _, (_, _, begin, end) in kept])
    return ShardLayout(len(text).to_bytes(8, "little") + text, ranges, tuple(name for name, _ in kept))


def _entry(entry: Any) -> tuple[str, list[int], int, int]:
    if isinstance(entry, dict):
        return (entry["dtype"], list(entry["shape"]), *entry["data_offsets"])
    return entry.dtype, list(entry.shape), entry.data_offsets.start, entry.data_offsets.end


def _misplaced(kept: list[tuple[str, tuple[str, list[int], int, int]]]) -> list[int]:
    """Return by how many bytes each tensor misses its alignment when they are written one after another."""
    at, missed = 0, []
    for _, (dtype, _, begin, end) in kept:
        missed.append(at % DTYPE_BYTES.get(dtype, 1))
        at += end - begin
    return missed


def _metadata(path: str) -> Mapping[str, Any]:
    """Return the `__metadata__` of a file that was found sound, under its own key; nothing where it has none."""
    with open(path, "rb") as file:
        raw = file.read(int.from_bytes(file.read(8), "little"))
    if b'"__metadata__"' not in raw:
        return {}
    notes = parse_json(raw, path, path).get("__metadata__")
    return {} if notes is None else {"__metadata__": notes}


def _joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for begin, end in ranges:
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        elif end > begin:
            joined.append((begin, end))
    return tuple(joined)


def write_shard(source: str, target: str, layout: ShardLayout, step: Callable[[str], None]) -> None:
    """Write a new file (none may be there) by its layout, down to the disk; `step` is called between the writes.

    An old file that ends too early raises a `TargetError`.
    """
    with open(source, "rb") as old, open(target, "xb") as new:
        new.write(layout.header)
        new.flush()
        at = len(layout.header)
        step(f"header of {target}")
        for begin, end in layout.ranges:
            _copy_range(old.fileno(), new.fileno(), begin, end, at)
            at += end - begin
            step(f"data of {target}")
        os.ftruncate(new.fileno(), at)
        os.fchmod(new.fileno(), os.fstat(old.fileno()).st_mode & 0o7777)
        os.fsync(new.fileno())
    step(f"written {target}")


def _copy_range(old: int, new: int, begin: int, end: int, at: int) -> None:
    """Copy a range and leave its holes as holes, where the file system tells of them."""
    here = begin
    while here < end:
        first, last = _next_data(old, here, end)
        while first < last:
            moved = _copy_some(old, new, first, min(last - first, 1 << 30), at + first - begin)
            if not moved:
                raise TargetError("a weights file became shorter while it was copied")
            first += moved
        here = last


def _next_data(old: int, here: int, end: int) -> tuple[int, int]:
    """Return the next stretch that holds data, from a position on; an empty one at the end where there is none."""
    try:
        first = os.lseek(old, here, os.SEEK_DATA)
        return (first, min(os.lseek(old, first, os.SEEK_HOLE), end)) if first < end else (end, end)
    except AttributeError:  # not on this system
        return here, end
    except OSError as error:
        size = os.fstat(old).st_size
        return (end, end) if error.errno == errno.ENXIO and end <= size else (here, end)


def _copy_some(old: int, new: int, begin: int, count: int, at: int) -> int:
    try:
        return os.copy_file_range(old, new, count, begin, at)
    except (AttributeError, OSError):  # another file system, an older kernel: by hand
        piece = os.pread(old, min(count, PIECE), begin)
        return os.pwrite(new, piece, at) if piece else 0
