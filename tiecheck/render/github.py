"""Annotations of a GitHub workflow: https://docs.github.com/actions/reference/workflow-commands-for-github-actions."""

from __future__ import annotations

from typing import TextIO

from tiecheck.errors import escaped
from tiecheck.records.report import Report, Severity
from tiecheck.render.findings import fix_sentence
from tiecheck.render.places import placed_findings
from tiecheck.render.reports import Style
from tiecheck.render.text import summary_text

COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write an annotation for each finding and each error, and the counts for whoever reads the log."""
    for one in placed_findings(report):
        places = {"file": one.path, "line": one.line, "col": one.column}
        of = "" if one.path else f"{one.target.target}: "
        text = f"{of}{one.finding.message} {fix_sentence(one.finding)}"
        stream.write(_annotation(COMMANDS[one.finding.severity], f"tiecheck ({one.finding.code})", text, places))
    for target in report.targets:
        told = (f"{target.target}: {error.message}" for error in target.errors)
        stream.writelines(_annotation("error", "tiecheck", text, {}) for text in told)
    stream.write(f"{summary_text(report)}\n")


def _annotation(command: str, title: str, text: str, places: dict[str, str | int | None]) -> str:
    given = {"title": title} | {key: value for key, value in places.items() if value is not None}
    properties = ",".join(f"{key}={_data(str(value), ':,')}" for key, value in given.items())
    return f"::{command} {properties}::{_data(text)}\n"


def _data(text: str, also: str = "") -> str:
    """Escape a text as a workflow command has it."""
    return "".join(f"%{ord(c):02X}" if c in f"%\r\n{also}" else escaped(c) for c in text)
