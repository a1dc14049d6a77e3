"""Rows of the table: one a finding, then one a model; and the judging of a chunk, which is all that a worker does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tiecheck._version import __version__
from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.fleet.sources import Listed, current_mark, value_digest
from tiecheck.fleet.tally import FleetTally
from tiecheck.records.report import TargetReport

Chunk = tuple[Listed, ...]


class Done(NamedTuple):
    """A chunk that an engine is through with."""

    chunk: Chunk
    judged: Judged | None
    """The outcome; None where it could not be had, after the engine's own retries."""
    error: str | None
    """Reason why, as a sentence without its subject."""


THREADS = 64
"""Remote models of one chunk that are read at once."""

FINDING = (
    "code",
    "name",
    "severity",
    "confidence",
    "message",
    "names",
    "hurts",
    "fixable",
    "fingerprint",
    "suppressed",
)
"""Fields of a finding that its row has; places and edits are told by `tiecheck TARGET`."""

MODEL = (
    *("target", "status", "architecture", "model_type", "codes", "error", "reason", "findings", "skips", "checked"),
    *("bytes", "requests", "mark", "version", "options"),
)
"""Fields of a model's row."""

_EMPTY: dict[str, Any] = {"row": "model", **dict.fromkeys(MODEL)} | {
    "codes": [], "findings": 0, "skips": 0, "checked": False, "options": "", "version": __version__
}  # fmt: skip

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Judged(NamedTuple):
    """The outcome of one chunk."""

    lines: bytes
    """Its rows as JSON lines; of each model the findings first, so that a model's row says that all of it is there."""
    tally: FleetTally
    """The same, counted."""


JUDGING = ("select", "ignore", "judge_for", "fail_on", "strict", "values", "allow", "baseline")
"""Options on which a row depends."""


def options_mark(config: Config) -> str:
    """Return the mark of the options by which models are judged: rows of other options are no rows of this run."""
    return value_digest([(name, getattr(config, name)) for name in JUDGING])


def judge_chunk(chunk: Sequence[Listed], config: Config) -> Judged:
    """Judge some models; whatever is wrong with one is its row. Runs in a worker, and needs the core install alone."""
    if any("://" in model.target for model in chunk):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(THREADS, len(chunk))) as pool:
            parts = list(pool.map(lambda model: _rows_of(model, config), chunk))
    else:
        parts = [_rows_of(model, config) for model in chunk]
    tally = FleetTally()
    options = options_mark(config)
    for rows in parts:
        rows[-1]["options"] = options
        tally.add(rows)
    return Judged(b"".join(map(row_lines, parts)), tally)


def failed_rows(model: Listed, why: str) -> Judged:
    """Return the outcome of a chunk of one model that could not be judged at all."""
    row = _model_row(model, None, "error") | {"error": why}
    tally = FleetTally()
    tally.add([row])
    return Judged(row_lines((row,)), tally)


def row_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return some rows as JSON lines."""
    return "".join(f"{_encode(row)}\n" for row in rows).encode()


def _rows_of(model: Listed, config: Config) -> list[dict[str, Any]]:
    if model.error is not None:
        return [_model_row(model, None, "error") | {"error": model.error}]
    return report_rows(model._replace(mark=current_mark(model)), check_target(model.target, config, one_of_many=True))


def report_rows(model: Listed, report: TargetReport) -> list[dict[str, Any]]:
    """Return the rows of a report: those of its findings, then that of the model."""
    rows = [
        {"row": "finding", "target": model.target, "architecture": report.architecture}
        | {field: getattr(found, field) for field in FINDING}
        for found in report.findings
    ]
    row = _model_row(model, report.architecture, report.status)
    row["model_type"], row["reason"] = report.model_type, report.reason
    row["codes"] = sorted({found.code for found in report.counted()})
    row["findings"] = len(rows)
    row["skips"] = len(report.skips)
    row["checked"] = bool(report.rules_run) and not report.errors
    if report.errors:
        row["error"] = "; ".join(error.message for error in report.errors)
    if report.remote is not None:
        row["bytes"], row["requests"] = report.remote
    return [*rows, row]


def _model_row(model: Listed, architecture: str | None, status: str) -> dict[str, Any]:
    return _EMPTY | {"target": model.target, "status": status, "architecture": architecture, "mark": model.mark}
