"""Rows of the table, one a finding, then one a model; and the judging of a chunk, which is all that a worker does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck._version import __version__
from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.files.limits import Account
from tiecheck.fleet.listed import HALVES, Listed, value_digest
from tiecheck.fleet.sources import current_mark
from tiecheck.fleet.tally import FleetTally
from tiecheck.records.report import TargetReport

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

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

KIND = ("architecture", "status", "model_type", "reason", "skips", "checked", "options")
"""Fields of a model's row that are not empty where nothing was found, but for target and mark: few in a fleet."""

LISTS = ("codes", "names", "hurts")
NUMBERS = ("findings", "skips", "bytes", "requests")
FLAGS = ("checked", "fixable")
"""Fields of both that hold lists of texts, numbers, and yes or no; the others are texts."""

NEVER_EMPTY = frozenset(("target", "status", "codes", "findings", "skips", "options", "version", "code", "severity"))

_EMPTY: dict[str, Any] = {"row": "model", **dict.fromkeys(MODEL)} | {
    "codes": [], "findings": 0, "skips": 0, "checked": False, "options": "", "version": __version__
}  # fmt: skip

_encode = json.JSONEncoder(separators=(",", ":")).encode
_encode_text = json.encoder.encode_basestring_ascii  # as `_encode` does a text
_encode_odd = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def sound_row(row: Any) -> bool:
    """Tell whether a value that was read from a table is one of its rows: a field for each column, of its type."""
    if not isinstance(row, dict):
        return False
    kind = row.get("row")
    fields = MODEL if kind == "model" else ("target", *FINDING) if kind == "finding" else None
    if fields is None or not row.keys() >= {*fields} or not all(_fits(name, row[name]) for name in fields):
        return False
    return kind == "finding" or row["status"] in {"pass", "fail", "unknown", "error"}


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name not in NEVER_EMPTY
    if name in LISTS:
        return isinstance(value, list) and all(type(one) is str for one in value)
    if name in NUMBERS:
        return type(value) is int and 0 <= value < 1 << 63
    return type(value) is (bool if name in FLAGS else str)


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
    judge = partial(_judged_rows, config=config, options=options_mark(config))
    remote = any("://" in model.target for model in chunk)
    parts = list(_readers(os.getpid()).map(judge, chunk)) if remote else list(map(judge, chunk))
    tally = FleetTally()
    for _, rows in parts:
        tally.add(rows)
    return Judged("".join([text for text, _ in parts]).encode(), tally)


@cache
def _readers(_pid: int) -> ThreadPoolExecutor:
    """Return the threads of this process: to start and end them with each chunk took a tenth of its time."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(THREADS, thread_name_prefix="tiecheck-fleet")


def failed_rows(model: Listed, why: str) -> Judged:
    """Return the outcome of a chunk of one model that could not be judged at all."""
    row = _model_row(model, None, "error") | {"error": why}
    tally = FleetTally()
    tally.add([row])
    return Judged(row_lines((row,)), tally)


def row_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return some rows as JSON lines."""
    return _row_text(rows).encode()


def _row_text(rows: Iterable[dict[str, Any]]) -> str:
    return "".join([f"{_row_line(row)}\n" for row in rows])


def _row_line(row: dict[str, Any]) -> str:
    line = _encode(row)
    if "\\ud" not in line:
        return line
    # A name that is no UTF-8 has half a pair of surrogates in it, which neither Parquet nor DuckDB takes.
    return _encode(json.loads(HALVES.sub(lambda half: f"\\\\u{ord(half[0]):04x}", _encode_odd(row))))


def _judged_rows(model: Listed, config: Config, options: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the rows of a model, as text, and for the counts."""
    if model.error is not None:
        rows = [_model_row(model, None, "error") | {"error": model.error, "options": options}]
        return _row_text(rows), rows
    if model.mark is None and model.names is None:
        model = model._replace(mark=current_mark(model))
    account = Account(config.timeout)
    account.listed = model.target, model.names or True
    report = check_target(model.target, config, one_of_many=account)
    mark = current_mark(model, account.files)
    target = _encode_text(model.target)
    if not (report.findings or report.errors or report.remote or "\\ud" in target):
        kind = (report.architecture, report.status, report.model_type, report.reason, len(report.skips))
        rows, (before, between, after) = _row_of_kind((*kind, bool(report.rules_run), options))
        return f"{before}{target}{between}{'null' if mark is None else _encode_text(mark)}{after}\n", rows
    rows = report_rows(model._replace(mark=mark), report)
    rows[-1]["options"] = options
    return _row_text(rows), rows


@lru_cache(1024)
def _row_of_kind(kind: tuple[Any, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the row of models of which nothing was found, and its text around target and mark."""
    row = _model_row(Listed("\0", "\0"), None, "") | dict(zip(KIND, kind, strict=True))
    return [row], _row_line(row).split('"\\u0000"')


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
