"""Code quality of GitLab: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format."""

from __future__ import annotations

import json
from typing import Any, TextIO

from tiecheck.records.report import Report, Severity, finding_fingerprint
from tiecheck.render.places import placed_findings
from tiecheck.render.reports import Style

SEVERITIES: dict[Severity, str] = {"error": "major", "warning": "minor", "info": "info"}


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write an entry for each finding and each error. What stands in no file has its target for a path."""
    entries = []
    for one in placed_findings(report):
        begin = {"line": one.line or 1} | ({"column": one.column} if one.column else {})
        found = one.finding
        entry = _entry(found.code, found.message, one.path or one.target.target, begin)
        entries.append(entry | {"fingerprint": found.fingerprint, "severity": SEVERITIES[found.severity]})
    for target in report.targets:
        for error in target.errors:
            entry = _entry("tiecheck", error.message, target.target, {"line": 1})
            print_ = finding_fingerprint("error", target.target, (error.message,))
            entries.append(entry | {"fingerprint": print_, "severity": "blocker"})
    seen: dict[str, int] = {}
    for entry in entries:  # a fingerprint is unique in the file
        again = seen[entry["fingerprint"]] = seen.get(entry["fingerprint"], 0) + 1
        entry["fingerprint"] += f"-{again}" if again > 1 else ""
    json.dump(entries, stream, indent=1)
    stream.write("\n")


def _entry(name: str, text: str, path: str, begin: dict[str, int]) -> dict[str, Any]:
    place = {"path": path, "positions": {"begin": begin, "end": begin}}
    return {"description": f"{name}: {text}", "check_name": name, "location": place}
