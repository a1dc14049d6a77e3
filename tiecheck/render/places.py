"""Findings with the file, line and column that a machine can link to."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tiecheck.records.record import Record
from tiecheck.records.report import Finding, Location, Report, TargetReport


class PlacedFinding(Record):
    """One finding of a report, and where it is shown."""

    target: TargetReport
    finding: Finding
    path: str | None
    """The file, relative to the working directory where it lies below it; None for what stands in no local file."""
    line: int | None
    """1-based line; None where the file has none."""
    column: int | None
    """1-based column."""

    def where(self) -> str:
        """Return path, line and column as an editor takes them; the target where there is no file."""
        parts = (self.path or self.target.target, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)


def placed_findings(report: Report, *, suppressed: bool = False) -> Iterator[PlacedFinding]:
    """Yield the findings that count, over all targets; `suppressed`: the others as well."""
    for target in report.targets:
        for finding in target.findings if suppressed else target.counted():
            yield PlacedFinding(target, finding, *_anchor(target, finding))


def _anchor(target: TargetReport, finding: Finding) -> tuple[str | None, int | None, int | None]:
    """Return the first place with a line, since a binary has none, else the first file."""
    files = [(path, place) for place in finding.locations if (path := local_path(target.target, place)) is not None]
    for path, place in files:
        if place.line is not None:
            return path, place.line, place.column
    return (files[0][0], None, None) if files else (None, None, None)


def local_path(target: str, place: Location) -> str | None:
    """Return the local file of a place; None for what is no file, or lies on another machine."""
    if place.kind != "file":
        return None
    base = target.removeprefix("file://")
    for path in (os.path.join(base, place.path), os.path.join(os.path.dirname(base), place.path), place.path):
        if os.path.isfile(path):
            near = os.path.relpath(path)
            return (os.path.abspath(path) if near.startswith("..") else near).replace(os.sep, "/")
    return None
