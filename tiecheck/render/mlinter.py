"""Findings in the shape of transformers' own linter, so that the job which posts its findings can post ours.

transformers-mlinter 0.1.5, `--output-json` (`mlinter.py`, `main`): `findings` of path, line, rule and message, a null
rule where a file could not be read, and of each rule among them `description`, `why_bad` and `diff`.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

from tiecheck.records.report import Finding, Report
from tiecheck.render.places import placed_findings
from tiecheck.render.reports import Style
from tiecheck.rules.registry import rule_of


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the findings that count and stand in a local file, and the errors, sorted as theirs are."""
    placed = [one for one in placed_findings(report) if one.path is not None]
    rows = [_row(str(one.path), one.line, one.finding.code, one.finding.message) for one in placed]
    rows += [_row(e.path or t.target, None, None, e.message) for t in report.targets for e in t.errors]
    rows.sort(key=lambda row: (row["path"], row["line"], row["message"]))
    first: dict[str, Finding] = {}
    for one in placed:
        first.setdefault(one.finding.code, one.finding)
    rules = {code: _rule(first[code]) for code in sorted(first)}
    json.dump({"findings": rows, "rules": rules}, stream, indent=2)
    stream.write("\n")


def _row(path: str, line: int | None, code: str | None, message: str) -> dict[str, Any]:
    told = f"{code}: {message}" if code else message
    return {"path": path, "line": line or 1, "rule": code, "message": told}


def _rule(finding: Finding) -> dict[str, str]:
    """Return what is said of a rule once; the change is that of its first finding."""
    rule = rule_of(finding.code)
    steps = [step for edit in finding.edits[:1] for step in edit.steps if step.kind == "edit-source"]
    lines = [
        f"{mark}{line}"
        for step in steps
        for mark, code in (("-", step.instead_of), ("+", step.code))
        for line in (code or "").splitlines()
    ]
    why = " ".join(rule.text()["Why it is bad"].split())
    return {"description": rule.summary, "why_bad": why, "diff": "".join(f"{line}\n" for line in lines)}
