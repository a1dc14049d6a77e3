"""Two targets side by side: which ties were lost, made or changed on the way from the one to the other."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.report import TieEntry

Difference = Literal["names", "declared", "kind", "stored", "shape", "values"]
"""Part of a group that differs: its names, who says that it is tied, how the names hang together, how many tensors a
checkpoint holds for it and whether they are equal, their shape, their values."""


class TieChange(Record):
    """One tie group in two targets."""

    names: tuple[str, ...]
    """The names that it has in either, sorted."""
    before: TieEntry | None
    """The group in the first target; null where it has none."""
    after: TieEntry | None
    """The group in the second; null where it has none."""
    differs: tuple[Difference, ...]
    """Parts that are different; empty where none is."""
    values: str | None
    """The tensors of the one against those of the other, in words; null where they were not looked at."""
    untold: str | None
    """Reason why something could not be compared; null where all could."""


class TieComparison(Record):
    """The ties of two targets, side by side. Each group is in one of the four lists, sorted by its first name."""

    before: str
    """The first target."""
    after: str
    """The second."""
    lost: tuple[TieChange, ...]
    """Groups that are tied in the first and not in the second."""
    made: tuple[TieChange, ...]
    """Groups that are tied in the second and not in the first."""
    changed: tuple[TieChange, ...]
    """Groups that differ otherwise: their names, kind, stored form, shape or values."""
    same: tuple[TieChange, ...]
    """Groups of which nothing is known to differ."""
    equal: bool | None
    """True where nothing differs, null where nothing is known to differ and something could not be compared."""
    only_before: tuple[str, ...] = ()
    """Names of no group that the first alone stores, sorted; told, and no difference of ties."""
    only_after: tuple[str, ...] = ()
    """Names of no group that the second alone stores, sorted."""
