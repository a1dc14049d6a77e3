"""Markdown, for the summary of a job, a comment on a pull request, or a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from tiecheck.errors import escaped
from tiecheck.records.report import Finding, Report, TargetReport
from tiecheck.render.findings import place_text, whom_text
from tiecheck.render.reports import Style
from tiecheck.render.text import summary_text, ties_text

MARKS = {"pass": ":white_check_mark:", "fail": ":x:", "unknown": ":grey_question:", "error": ":boom:"}


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the counts, a table of the targets, and what is wrong with each."""
    lines = ["### tiecheck", "", markdown_text(summary_text(report)), ""]
    lines += ["| | target | model | ties |", "|---|---|---|---|"]
    shown = [t for t in report.targets if not (style.quiet and t.status == "pass")]
    for target in shown:
        cells = (
            f"{MARKS[target.status]} {target.status}",
            code_text(target.target),
            markdown_text(target.architecture or ""),
        )
        lines.append(f"| {' | '.join((*cells, ties_text(target)))} |")
    for target in shown:
        told = list(_target(target, style))
        if told:
            lines += ["", f"#### {code_text(target.target)}", "", *told]
    stream.writelines(f"{line}\n" for line in lines)


def _target(target: TargetReport, style: Style) -> Iterator[str]:
    for error in target.errors:
        yield f"- **error**: {markdown_text(error.message)}"
    if target.reason:
        yield f"- **unknown**: {markdown_text(target.reason)}"
    for finding in target.findings if style.verbose else target.counted():
        yield from _finding(finding, target)


def _finding(finding: Finding, target: TargetReport) -> Iterator[str]:
    off = f" (suppressed: {markdown_text(finding.suppressed)})" if finding.suppressed else ""
    yield f"- **{finding.code} {finding.severity}**{off}: {markdown_text(finding.message)}"
    whom = whom_text(finding, target)
    if whom:
        yield f"  - hurts: {markdown_text(whom)}"
    places = "; ".join(f"{code_text(place_text(place))} {markdown_text(place.note)}" for place in finding.locations)
    yield f"  - at: {places}"
    parts = finding.help.split("`")
    fix = "".join(code_text(part) if i % 2 else markdown_text(part) for i, part in enumerate(parts))
    yield f"  - fix: {fix}"


def markdown_text(text: str) -> str:
    """Escape what Markdown, or HTML in it, would take for its own."""
    return "".join(f"\\{c}" if c in "\\`*<>|[]#&~" else c for c in escaped(text))


def code_text(text: str) -> str:
    """Return a text as code; a mark within it ends none."""
    clean = escaped(text).replace("|", "\\|")
    return f"`{clean}`" if "`" not in clean else f"`` {re.sub('`(?=`)', '` ', clean)} ``"
