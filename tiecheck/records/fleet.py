"""The summary of a fleet: how many models came out how, by rule, class and loader, the worst first."""

from __future__ import annotations

from tiecheck.records.record import Record


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
