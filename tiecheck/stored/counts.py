"""Parameter counts of a checkpoint, by its headers alone: see `Counts`. One pass, and no tensor byte."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod
from typing import Any, NamedTuple

from tiecheck.records.counts import Counts, Tally
from tiecheck.records.stored import Checkpoint, Group, read_entry
from tiecheck.records.words import Unknown

INTEGERS = ("int", "uint")
"""Beginnings of the words of element types that may hold several packed weights each."""


UNTOLD = Tally(None, None, None)


class _Sum(NamedTuple):
    """The sizes of some stored tensors together."""

    elements: int
    nbytes: int
    packed: int
    """Tensors of integers."""


def count_stored(checkpoint: Checkpoint, groups: tuple[Group, ...] | Unknown) -> Counts:
    """Count what a checkpoint holds, saved buffers included, and what is expected if the declared ties held.

    Where a file was not read all are null, with the reason.
    """
    if checkpoint.missing_files:
        reason = f"{checkpoint.missing_files[0]} is {checkpoint.why_absent}"
        return Counts("stored", UNTOLD, None, UNTOLD, UNTOLD, None, (reason,))
    entries = list(_entries(checkpoint))
    named = _sum(entry for _, entry in entries)
    reasons = []
    if named.packed:
        hold = "tensor holds" if named.packed == 1 else "tensors hold"
        reasons.append(f"{named.packed:,} {hold} integers, counted as stored, though one may pack several weights")
    unique = _once(checkpoint, entries)
    if unique.nbytes is None:
        reasons.append("some tensors are saved as views of which it cannot be told how much memory they share")
    gone = groups if isinstance(groups, Unknown) else _duplicates(groups)
    if isinstance(gone, Unknown):
        expected = UNTOLD
        reasons.append(f"what is expected cannot be told: {gone.reason}")
    else:
        expected = _once(checkpoint, [pair for pair in entries if pair[0] not in gone]) if gone else unique
    return Counts("stored", unique, None, _tally(named), expected, None, tuple(reasons))


def _entries(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """Give every stored name with its header entry, each once; of two shards that hold it the one the index names."""
    once = checkpoint.agrees or len(checkpoint.shards) == 1
    seen: set[str] = set()
    for shard in checkpoint.shards:
        if once:
            yield from shard.entries.items()
            continue
        for name in shard.entries:
            if name not in seen:
                seen.add(name)
                holder = checkpoint.shard_of(name)
                yield name, (holder or shard).entries[name]


def _duplicates(groups: tuple[Group, ...]) -> set[str] | Unknown:
    """Return the stored names of declared groups that would not be there if each were one tensor."""
    gone: set[str] = set()
    for group in groups:
        if not group.declared or len(group.tensors) < 2:
            continue
        names = [tensor.name for tensor in group.tensors]
        if group.source not in names and len({tensor.shape for tensor in group.tensors}) > 1:
            return Unknown(f"which of {', '.join(names)} would be kept is not known")
        kept = group.source if group.source in names else names[0]
        gone.update(name for name in names if name != kept)
    return gone


def _sum(entries: Iterator[Any]) -> _Sum:
    elements = nbytes = packed = 0
    for entry in entries:
        dtype, shape, start, end = read_entry(entry)
        elements += prod(shape)
        nbytes += end - start
        packed += dtype.startswith(INTEGERS)
    return _Sum(elements, nbytes, packed)


def _tally(found: _Sum) -> Tally:
    return Tally(found.elements, found.nbytes, None)


def _once(checkpoint: Checkpoint, entries: Collection[tuple[str, Any]]) -> Tally:
    """Count some stored tensors, memory that a pickle shares between them once."""
    alone = _sum(entry for name, entry in entries if name not in checkpoint.slots)
    if not checkpoint.slots:
        return _tally(alone)
    from tiecheck.files.covered_bytes import count_covered_bytes
    from tiecheck.files.strided_views import ByteView, dims_of

    views: dict[tuple[int, int], list[ByteView]] = {}
    for name, entry in entries:
        slot = checkpoint.slots.get(name)
        if slot is not None:
            _, shape, start, end = read_entry(entry)
            width = (end - start) // prod(shape)
            view = ByteView(slot.storage, slot.offset * width, dims_of(shape, slot.stride, width))
            views.setdefault((slot.storage, width), []).append(view)
    widths = [storage for storage, _ in views]
    parts = [(count_covered_bytes(held), width) for (_, width), held in views.items()]
    if len(set(widths)) < len(widths) or any(nbytes is None for nbytes, _ in parts):
        return UNTOLD
    elements = alone.elements + sum((nbytes or 0) // width for nbytes, width in parts)
    return Tally(elements, alone.nbytes + sum(nbytes or 0 for nbytes, _ in parts), None)
