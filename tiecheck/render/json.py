"""The JSON report `tiecheck/1`. The same input gives the same bytes, but for `seconds`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from tiecheck._version import __version__
from tiecheck.records.report import SEVERITIES, Report

if TYPE_CHECKING:
    from tiecheck.records.fleet import FleetComparison, FleetSummary, TieComparison
    from tiecheck.records.life import SurvivalMatrix
    from tiecheck.render.reports import Shown, Style

SCHEMA = "tiecheck/1"
"""The contract's name; a change that is not compatible gets another number."""

INTERNAL = frozenset({"rules_run"})
"""Fields of the records that the contract does not have."""


def render(  # one signature for all formats
    report: Shown,
    style: Style,  # noqa: ARG001
    stream: TextIO,
) -> None:
    """Write a report as JSON, two targets side by side, a fleet, or a survival matrix."""
    document = json_document(report) if isinstance(report, Report) else _other_document(report)
    json.dump(document, stream, indent=1, ensure_ascii=True)
    stream.write("\n")


def json_document(report: Report) -> dict[str, Any]:
    """Return the report as plain dicts and lists, in the shape of the schema."""
    return {
        "schema": SCHEMA,
        "version": report.version,
        "targets": [as_plain_data(target) for target in report.targets],
        "summary": _summary(report),
    }


OTHERS = {
    "TieComparison": "comparison",
    "FleetSummary": "fleet",
    "FleetComparison": "fleet_comparison",
    "SurvivalMatrix": "survival",
}
"""Record -> its key in the document."""


def _other_document(found: TieComparison | FleetSummary | FleetComparison | SurvivalMatrix) -> dict[str, Any]:
    return {"schema": SCHEMA, "version": __version__, OTHERS[type(found).__name__]: as_plain_data(found)}


def as_plain_data(value: Any) -> Any:
    """Turn records into dicts, tuples into lists, and keys of mappings into texts, all the way down."""
    if hasattr(value, "_fields"):
        return {name: as_plain_data(getattr(value, name)) for name in value._fields if name not in INTERNAL}
    if isinstance(value, tuple):
        return [as_plain_data(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): as_plain_data(item) for key, item in value.items()}
    return value


def _summary(report: Report) -> dict[str, Any]:
    return {
        "targets": len(report.targets),
        "findings": {severity: report.tally(severity) for severity in reversed(SEVERITIES)},
        "skips": len(report.skips),
        "suppressed": sum(f.suppressed is not None for t in report.targets for f in t.findings),
        "errors": len(report.errors),
        "seconds": round(report.seconds, 4),
    }
