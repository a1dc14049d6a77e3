"""The records of numbers of parameters, by each way of counting them."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record


class Tally(Record):
    """An amount of parameters."""

    elements: int | None
    """Number of elements; null where it cannot be told, and `Counts.reasons` says why."""
    nbytes: int | None
    """Bytes of memory, or of storage, that they take; of a sharded or wrapped tensor what this process holds."""
    trainable: int | None
    """Number of elements that require a gradient; null in a checkpoint, which does not say."""


class Counts(Record):
    """The number of parameters, by each way of counting. Where nothing is tied all of them agree."""

    layer: Literal["stored", "live"]
    """Layer that was counted: a checkpoint by its headers, or a live module."""
    unique: Tally
    """Each memory once: ties count once, storage ties too, and overlapping views are not counted double."""
    objects: Tally | None
    """Each `Parameter` object once, as `sum(p.numel() for p in model.parameters())` does: more than `unique` by what
    different parameters share in memory. Null in a checkpoint, which has no such objects."""
    by_name: Tally
    """Each name, as a sum over a state dict does; counts stop at 2**128."""
    expected: Tally
    """Value of `unique` if every declared tie held: without the duplicates of the declared groups that are kept
    apart. The same as `unique` where all hold, or none is declared."""
    buffers: Tally | None
    """The buffers' memory that no parameter stands on; null in a checkpoint, which does not tell them apart."""
    reasons: tuple[str, ...]
    """Reasons why something is unknown, and what limits a figure."""
