"""Findings that a comment of the source they are in takes back: `# tiecheck: ignore[TIE802] reason`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tiecheck.records.report import Finding
from tiecheck.records.source import SourceFile


def suppress_findings(findings: Iterable[Finding], sources: tuple[SourceFile, ...]) -> Iterator[Finding]:
    """Yield findings, marked as suppressed where a comment on their line, or one for the whole file, names them."""
    ignores = {file.path: file.ignores for file in sources}
    for finding in findings:
        place = finding.locations[0]
        for line, codes in ignores.get(place.path, ()):
            if line in (0, place.line) and (not codes or finding.code.startswith(codes)):
                where = f"line {line}" if line else "the file"
                finding = finding._replace(suppressed=f"tiecheck: ignore on {where}")  # noqa: PLW2901
                break
        yield finding
