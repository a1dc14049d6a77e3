"""Records of several targets together: the summary of a fleet, and the ties of two targets side by side."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.report import TieEntry


class FleetCount(Record):
    """The models of one rule, class or loader."""

    name: str
    """The rule's code, the class, or the loader with its versions."""
    models: int
    """Models that have to do with it: that the rule found, that are of the class, that the loader is hurt by."""
    fail: int
    """Those of them that fail."""
    error: int
    """Those of them that could not be judged."""


class WorstModel(Record):
    """One of the models with the most findings."""

    target: str
    """The target."""
    architecture: str | None
    """Its class."""
    codes: tuple[str, ...]
    """The rules that found something, sorted."""


class RunCounts(Record):
    """The counts of one run over a fleet."""

    listed: int
    """Models that the source gave."""
    judged: int
    """Those that were judged."""
    failed: int
    """Those that could not be read."""
    skipped: int
    """Those whose rows of an earlier run still hold."""
    seconds: float
    """Wall-clock time."""
    complete: bool
    """True where the source was listed to its end, and listed = judged + failed + skipped."""


class FleetSummary(Record):
    """The outcome of a fleet."""

    version: str
    """tiecheck's version."""
    run: RunCounts
    """The run itself."""
    status: dict[str, int]
    """Status -> models, those of an earlier run included; so are all below."""
    severity: dict[str, int]
    """Severity -> findings."""
    unchecked: int
    """Models on which no rule could judge, or that could not be read."""
    skips: int
    """Rules that had to be skipped, over all models."""
    bytes: int
    """Bytes that remote models took."""
    requests: int
    """Requests that remote models took."""
    rules: tuple[FleetCount, ...]
    """By rule; most failing models first."""
    architectures: tuple[FleetCount, ...]
    """By class; most failing models first."""
    loaders: tuple[FleetCount, ...]
    """By loader that a finding of warning or error hurts; most failing models first."""
    worst: tuple[WorstModel, ...]
    """Models with the most errors, then warnings."""
    errors: tuple[tuple[str, str], ...]
    """The first models that could not be judged, each with the reason."""


class FleetChange(Record):
    """A model that has another verdict than before."""

    target: str
    """The target."""
    before: str
    """Its status in the first table."""
    after: str
    """Its status in the second."""
    appeared: tuple[str, ...]
    """Rules that find something now and did not before, sorted."""
    ended: tuple[str, ...]
    """Rules that found something before and do not now, sorted."""


class FleetComparison(Record):
    """Two tables of a fleet, side by side."""

    before: str
    """The first table."""
    after: str
    """The second."""
    same: int
    """Models with the same verdict in both."""
    changed: tuple[FleetChange, ...]
    """Models with another one; those that have come to fail first."""
    new: tuple[str, ...]
    """Models that only the second has, sorted."""
    gone: tuple[str, ...]
    """Models that only the first has, sorted."""
    equal: bool
    """True where nothing differs."""


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
