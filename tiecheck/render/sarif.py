"""SARIF 2.1.0, as GitHub's code scanning takes it.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html and
https://docs.github.com/code-security/reference/code-scanning/sarif-files/sarif-support-for-code-scanning. Every rule is
listed, not those alone that fired. A binary has no lines: a finding is shown at its first place in a text, the tensors
are logical locations, and the line hash is the finding's own fingerprint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from tiecheck.records.report import Report, Severity
from tiecheck.render.findings import fix_sentence
from tiecheck.render.places import PlacedFinding, local_path, placed_findings
from tiecheck.render.reports import Style
from tiecheck.render.rules import rule_text
from tiecheck.rules.registry import all_rules

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
PRECISION = {"high": "high", "medium": "medium", "low": "low"}
LONGEST = 1024
"""Characters of a rule's descriptions that GitHub takes."""


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the report as a log with one run; what is suppressed is in it, as such."""
    rules = all_rules()
    index = {rule.code: i for i, rule in enumerate(rules)}
    name = f"{quote(os.fsencode(report.targets[0].target))}/" if len(report.targets) == 1 else ""
    driver = {
        "name": "tiecheck",
        "version": report.version,
        "semanticVersion": report.version,
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"tiecheck/{name}"},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report)],
        "results": [_result(one, index[one.finding.code]) for one in placed_findings(report, suppressed=True)],
    }
    json.dump({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, stream, indent=1)
    stream.write("\n")


def _rule(rule: type[Rule]) -> dict[str, Any]:
    about = " ".join(rule.text()["What it does"].split())
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.summary[:LONGEST]},
        "fullDescription": {"text": about[:LONGEST]},
        "help": {"text": rule_text(rule), "markdown": rule_text(rule)},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {
            "precision": PRECISION[rule.confidence],
            "problem.severity": {"info": "recommendation"}.get(rule.severity, rule.severity),
            "tags": ["weight-tying"],
        },
    }


def _invocation(report: Report) -> dict[str, Any]:
    """Return what kept rules from judging; not successful is what makes the exit status 2."""
    told: list[tuple[str, str, str | None]] = []
    for target in report.targets:
        told += [("error", f"{target.target}: {error.message}", error.code) for error in target.errors]
        told += [("note", f"{target.target}: {skip.code} skipped: {skip.reason}", skip.code) for skip in target.skips]
        told += [("warning", f"{target.target}: not known: {target.reason}", None)] if target.reason else []
    notes = [_notification(*one) for one in told]
    failed = not report.targets or any(target.errors or not target.rules_run for target in report.targets)
    return {"executionSuccessful": not failed, "toolExecutionNotifications": notes}


def _notification(level: str, text: str, code: str | None) -> dict[str, Any]:
    return {"level": level, "message": {"text": text}} | ({"associatedRule": {"id": code}} if code else {})


def _result(one: PlacedFinding, index: int) -> dict[str, Any]:
    finding = one.finding
    names = [{"fullyQualifiedName": name, "kind": "object"} for name in finding.names]
    first: dict[str, Any] = {"logicalLocations": names} if names else {}
    if one.path is not None:
        first["physicalLocation"] = _physical(one.path, one.line or 1, one.column)
    related = []
    for i, place in enumerate(finding.locations):
        path = local_path(one.target.target, place)
        where = {} if path is None else {"physicalLocation": _physical(path, place.line, place.column)}
        related.append({"id": i, "message": {"text": f"{place.path}: {place.note}"}} | where)
    result = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.message}\n\n{fix_sentence(finding)}"},
        "locations": [first] if first else [],
        "relatedLocations": related,
        "partialFingerprints": {"primaryLocationLineHash": finding.fingerprint, "tiecheck/1": finding.fingerprint},
        "properties": {
            "target": one.target.target,
            "confidence": finding.confidence,
            "fixable": finding.fixable,
            "hurts": list(finding.hurts or ()),
        },
    }
    if finding.suppressed is not None:
        result["suppressions"] = [{"kind": "external", "justification": finding.suppressed}]
    return result


def _physical(path: str, line: int | None, column: int | None) -> dict[str, Any]:
    artifact = (
        {"uri": Path(path).as_uri()}
        if path.startswith("/")
        else {"uri": quote(os.fsencode(path)), "uriBaseId": "%SRCROOT%"}
    )
    region = {"startLine": line} | ({"startColumn": column} if column else {}) if line else None
    return {"artifactLocation": artifact} | ({"region": region} if region else {})
