"""Drawn tables of a fleet, as JSON lines and as Parquet: sound ones, with one thing or several made wrong."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cases import FORMATS, Case, Draw, encoded
from texts import CONFIG

from tiecheck.fleet.rows import FINDING, FLAGS, LISTS, MODEL, NUMBERS

STATUS = ("pass", "fail", "unknown", "error")
ASKS = (
    ("fleet", "compare", "{}/old", "{}/new"),
    ("fleet", "compare", "{}/new", "{}/old", "-f", "json"),
    ("fleet", "{}/m", "--results", "{}/new", "--resume"),
    ("fleet", "{}/m", "--results", "{}/new", "--resume", "-f", "json"),
    ("fleet", "{}/new", "-f", "jsonl"),
)


def _sound(name: str, target: str) -> Any:
    if name in LISTS:
        return ["TIE101"] if name == "codes" else []
    known = {"target": target, "severity": "error", "error": None, "reason": None, "suppressed": None}
    return 0 if name in NUMBERS else True if name in FLAGS else known.get(name, "x")


def _rows(draw: Draw) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in range(draw.choice((0, 1, 3))):
        found = draw.choice((0, 1, 2))
        target = draw.choice((f"{{}}/m/{i}", "x", draw.word()))
        rows += [{"row": "finding", "target": target, "architecture": None}
                 | {name: _sound(name, target) for name in FINDING} for _ in range(found)]  # fmt: skip
        row = {"row": "model"} | {name: _sound(name, target) for name in MODEL}
        rows.append(row | {"status": draw.choice(STATUS), "findings": found})
    return rows


def _broken(draw: Draw, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for _ in range(draw.choice((0, 1, 1, 2))):
        row = draw.choice(rows) if rows else {}
        name = draw.choice(tuple(row) or ("row",))
        odd = draw.value() if draw.chance(0.7) else draw.choice(([draw.value()], draw.number(), "\ud800"))
        if draw.chance(0.1):
            row.pop(name, None)
        elif draw.chance(0.1):
            rows.append(dict(row))
        else:
            row[name] = _plain(odd)
    return rows


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str)) if not isinstance(value, int) else value % (1 << 70)


@cache
def _parquet(seed: int) -> bytes:
    from tiecheck.fleet.parquet import write_parquet

    with tempfile.TemporaryDirectory() as folder:
        write_parquet(f"{folder}/x", [_rows(Draw(seed))])
        return Path(folder, "x").read_bytes()


def _table(draw: Draw, ending: str) -> Any:
    if draw.chance(0.03):
        return draw.choice(({"fifo": True}, {"link": "."}, {"hole": 1 << 40, "head": b""}))
    if ending == ".parquet":
        raw = _parquet(draw.randrange(40))
        return draw.damaged(raw) if draw.chance(0.9) else raw
    text = "".join(json.dumps(row) + "\n" for row in _broken(draw, _rows(draw)))
    return encoded(draw, text) if draw.chance(0.3) else text.encode()


def table_case(draw: Draw) -> Case:
    """Two tables that are compared, or one that is taken up again."""
    ending = ".parquet" if draw.chance(0.1) else ".jsonl"
    files: dict[str, Any] = {"m/0/config.json": CONFIG} if draw.chance(0.5) else {}
    files |= {f"old{ending}": _table(Draw(draw.random()), ending), f"new{ending}": _table(draw, ending)}
    if draw.chance(0.1):
        files[f"new{ending}{draw.choice(('.new', '.partial'))}"] = draw.choice(({"fifo": True}, b"x", {"link": "m"}))
    words = draw.choice(ASKS)
    return Case("table", files, tuple(w + ending if w in {"{}/old", "{}/new"} else w for w in words))


FORMATS["table"] = table_case
