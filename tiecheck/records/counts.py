"""The records of numbers of parameters, by each way of counting them."""

from __future__ import annotations

from tiecheck.records.record import Record


class Tally(Record):
    """An amount of parameters."""

    elements: int | None
    """Number of elements; null where it cannot be told, and `Counts.reasons` says why."""
    nbytes: int | None
    """Bytes that they take; on the meta device what they would take."""
    trainable: int | None
    """Number of elements that require a gradient."""


class Counts(Record):
    """The number of parameters of a live module, by each way of counting. Where nothing is tied all of them agree."""

    unique: Tally
    """Each memory once: ties count once, storage ties too."""
    objects: Tally
    """Each `Parameter` object once, as `sum(p.numel() for p in model.parameters())` does: more than `unique` by what
    different parameters share in memory."""
    expected: Tally
    """Value of `unique` if every declared tie held: without the duplicates of the declared groups that are kept
    apart. The same as `unique` where all hold, or none is declared."""
    reasons: tuple[str, ...]
    """Reasons why something is unknown."""
