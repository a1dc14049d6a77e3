"""Rows of the table, one a finding, then one a model; counts over them; and the judging of a chunk, all of a worker."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck._version import __version__
from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.fleet.listed import HALVES, Listed, value_digest
from tiecheck.fleet.sources import current_mark
from tiecheck.records.fleet import FleetCount, FleetSummary, RunCounts, WorstModel
from tiecheck.records.report import TargetReport

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

WORST = 20
"""Models that are named: the worst ones, and the first that could not be judged."""

NAMES = 5_000
"""Classes, or loaders, that are counted one by one; those beyond are counted together."""

OTHERS = "(others)"


class FleetTally:
    """Counts of models and findings."""

    def __init__(self) -> None:
        self.plain: Counter[str] = Counter()
        """`models`, `unchecked`, `skips`, `bytes`, `requests`; and `status ...` and `severity ...`, words each."""
        self.by: dict[str, dict[str, list[int]]] = {"rules": {}, "architectures": {}, "loaders": {}}
        """Name -> its models, those of them that fail, those in error."""
        self.worst: list[tuple[int, int, str, str | None, tuple[str, ...]]] = []
        self.errors: list[tuple[str, str]] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count one model: the rows of its findings, then its own."""
        *findings, row = rows
        plain = self.plain
        status = row["status"]
        plain["models"] += 1
        plain[f"status {status}"] += 1
        plain["skips"] += row["skips"]
        if not row["checked"]:
            plain["unchecked"] += 1
        if row["requests"] is not None:
            plain["bytes"] += row["bytes"] or 0
            plain["requests"] += row["requests"]
        if row["error"] is not None and len(self.errors) < WORST:
            self.errors.append((row["target"], row["error"]))
        self._count("architectures", row["architecture"] or "(none)", status)
        counted = [found for found in findings if found["suppressed"] is None]
        if not counted:
            return
        for code in row["codes"]:
            self._count("rules", code, status)
        grave = [found for found in counted if found["severity"] != "info"]
        for found in counted:
            plain[f"severity {found['severity']}"] += 1
        for loader in dict.fromkeys(title for found in grave for title in found["hurts"] or ()):
            self._count("loaders", loader, status)
        if grave:
            errors = sum(found["severity"] == "error" for found in grave)
            self.worst.append((-errors, errors - len(grave), row["target"], row["architecture"], tuple(row["codes"])))
            if len(self.worst) > 2 * WORST:
                self._cut()

    def merge(self, other: FleetTally) -> None:
        """Add the counts of another chunk."""
        self.plain.update(other.plain)
        for kind, names in other.by.items():
            held = self.by[kind]
            for name, counts in names.items():
                known = name if name in held or len(held) < NAMES else OTHERS
                held[known] = [a + b for a, b in zip(held.get(known, (0, 0, 0)), counts, strict=True)]
        self.worst += other.worst
        self._cut()
        self.errors = (self.errors + other.errors)[:WORST]

    def summary(self, run: RunCounts) -> FleetSummary:
        """Return the counts as the record that is shown, with those of this run."""
        self._cut()
        plain = self.plain
        return FleetSummary(
            version=__version__,
            run=run,
            status={word: plain[f"status {word}"] for word in ("pass", "fail", "unknown", "error")},
            severity={word: plain[f"severity {word}"] for word in ("error", "warning", "info")},
            unchecked=plain["unchecked"],
            skips=plain["skips"],
            bytes=plain["bytes"],
            requests=plain["requests"],
            rules=self._sorted("rules"),
            architectures=self._sorted("architectures"),
            loaders=self._sorted("loaders"),
            worst=tuple(WorstModel(target, architecture, codes) for _, _, target, architecture, codes in self.worst),
            errors=tuple(self.errors),
        )

    def _count(self, kind: str, name: str, status: str) -> None:
        held = self.by[kind]
        counts = held.get(name)
        if counts is None:
            counts = held[name] = [0, 0, 0]
        counts[0] += 1
        if status == "fail":
            counts[1] += 1
        elif status == "error":
            counts[2] += 1

    def _cut(self) -> None:
        self.worst.sort(key=lambda worst: worst[:3])
        del self.worst[WORST:]

    def _sorted(self, kind: str) -> tuple[FleetCount, ...]:
        found = [FleetCount(name, *counts) for name, counts in self.by[kind].items()]
        return tuple(sorted(found, key=lambda one: (-one.fail, -one.error, -one.models, one.name)))


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

LISTS = ("codes", "names", "hurts")
NUMBERS = ("findings", "skips", "bytes", "requests")
FLAGS = ("checked", "fixable")
"""Fields of both that hold lists of texts, numbers, and yes or no; the others are texts."""

NEVER_EMPTY = frozenset(("target", "status", "codes", "findings", "skips", "options", "version", "code", "severity"))

_EMPTY: dict[str, Any] = {"row": "model", **dict.fromkeys(MODEL)} | {
    "codes": [], "findings": 0, "skips": 0, "checked": False, "options": "", "version": __version__
}  # fmt: skip

_encode = json.JSONEncoder(separators=(",", ":")).encode
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
    if any("://" in model.target for model in chunk):
        parts = list(_readers(os.getpid()).map(lambda model: _rows_of(model, config), chunk))
    else:
        parts = [_rows_of(model, config) for model in chunk]
    tally = FleetTally()
    options = options_mark(config)
    for rows in parts:
        rows[-1]["options"] = options
        tally.add(rows)
    return Judged(b"".join(map(row_lines, parts)), tally)


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
    return "".join(f"{_row_line(row)}\n" for row in rows).encode()


def _row_line(row: dict[str, Any]) -> str:
    line = _encode(row)
    if "\\ud" not in line:
        return line
    # A name that is no UTF-8 has half a pair of surrogates in it, which neither Parquet nor DuckDB takes.
    return _encode(json.loads(HALVES.sub(lambda half: f"\\\\u{ord(half[0]):04x}", _encode_odd(row))))


def _rows_of(model: Listed, config: Config) -> list[dict[str, Any]]:
    if model.error is not None:
        return [_model_row(model, None, "error") | {"error": model.error}]
    if model.mark is None:
        model = model._replace(mark=current_mark(model))
    return report_rows(model, check_target(model.target, config, one_of_many=model.names or True))


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
