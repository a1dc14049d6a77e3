"""Names that several shards of one checkpoint hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tiecheck.records.stored import Checkpoint, StoredTensor, read_entry
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.records.files import Duplicate

COMPARED = 64
"""Names whose bytes are compared at most."""


def duplicates(checkpoint: Checkpoint, values: Literal["auto", "never", "always"]) -> tuple[Duplicate, ...]:
    """Every name that stands in several shards, sorted; the bytes of the first ones compared.

    Args:
        checkpoint: A checkpoint of several shards.
        values: Whether bytes may be read.
    """
    strays = sorted(set(_strays(checkpoint)))
    several = [(name, tensors) for name in strays if len(tensors := _entries(checkpoint, name)) > 1]
    return tuple(
        _compared(checkpoint, name, tensors, values if i < COMPARED else "never")
        for i, (name, tensors) in enumerate(several)
    )


def _strays(checkpoint: Checkpoint) -> Iterator[str]:
    """Names in a shard that the index does not give to it: of a name in two shards, one at least."""
    where = checkpoint.weight_map
    for shard in () if checkpoint.agrees else checkpoint.shards:
        for name in shard.entries:
            if where.get(name) != shard.path:
                yield name


def _entries(checkpoint: Checkpoint, name: str) -> tuple[StoredTensor, ...]:
    found = []
    for shard in checkpoint.shards:
        entry = shard.entries.get(name)
        if entry is not None:
            dtype, shape, start, end = read_entry(entry)
            begin = None if checkpoint.format == "pickle" else shard.data_start + start
            found.append(StoredTensor(name, dtype, shape, end - start, shard.path, begin))
    return tuple(found)


def _compared(
    checkpoint: Checkpoint, name: str, tensors: tuple[StoredTensor, ...], values: Literal["auto", "never", "always"]
) -> Duplicate:
    from tiecheck.records.files import Duplicate

    plain = Duplicate(name, tensors, checkpoint.weight_map.get(name), None, None)
    if any((t.dtype, t.shape) != (tensors[0].dtype, tensors[0].shape) for t in tensors):
        return plain
    if values == "never":
        return plain._replace(reason="the bytes were not read")
    from tiecheck.files.compare.equality import compare

    result = compare(checkpoint, tensors, exact=values == "always")
    return plain._replace(reason=result.reason) if isinstance(result, Unknown) else plain._replace(comparison=result)
