"""One line a finding, `path:line:column: CODE severity: what is wrong`, as editors and `grep` take it."""

from __future__ import annotations

from typing import TextIO

from tiecheck.errors import escaped
from tiecheck.records.report import Report
from tiecheck.render.places import placed_findings
from tiecheck.render.reports import Style
from tiecheck.render.text import summary_text


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the report, errors and what is unknown among it, and a last line with the counts."""
    lines = []
    for one in placed_findings(report):
        of = "" if one.path is None or one.path.startswith(one.target.target) else f" ({one.target.target})"
        lines.append(f"{one.where()}: {one.finding.code} {one.finding.severity}: {one.finding.message}{of}")
    for target in report.targets:
        lines += [f"{target.target}: error: {error.message}" for error in target.errors]
        if target.status == "unknown":
            lines.append(f"{target.target}: unknown: {target.reason}")
    stream.writelines(f"{escaped(line)}\n" for line in lines)
    if not style.quiet:
        stream.write(f"{summary_text(report)}\n")
