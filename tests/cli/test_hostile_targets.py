"""Hostile targets of every kind as a whole process: its sentence, its exit status, its time and its memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from heavy_targets import HEAVY
from hostile_targets import LIGHT
from whole_processes import judged, wrong_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and the memory of a process are Unix's")

SECONDS, MEBIBYTES = 20.0, 600
"""Processor seconds and memory that a target may take: the limits have it at some seconds and 512 MiB."""


@pytest.mark.parametrize("kind", LIGHT)
def test_light_targets_are_told_at_once(tmp_path: Path, kind: str) -> None:
    due = dict(LIGHT[kind](tmp_path))
    reports, status, seconds, mebibytes = judged(tmp_path, *due)
    assert len(reports) == len(due) > 1
    wrong = {r["target"]: found for r in reports if (found := wrong_in(r, due[r["target"]]))}
    assert wrong == {}
    assert status == (2 if any(r["status"] in {"error", "unknown"} for r in reports) else status)
    assert seconds < SECONDS / 2
    assert mebibytes < MEBIBYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEAVY)
def test_heavy_targets_stay_within_the_limits(tmp_path: Path, kind: str) -> None:
    for name, due in HEAVY[kind](tmp_path):
        (report,), status, seconds, mebibytes = judged(tmp_path, name, *due.options)
        print(f"{kind} {name}: {report['status']}, exit {status}, {seconds:.1f} s, {mebibytes:.0f} MiB")
        assert wrong_in(report, due) == [], report
        assert status == {"pass": 0, "fail": 1}.get(report["status"], status)
        assert seconds < SECONDS
        assert mebibytes < MEBIBYTES + (1200 if due.builds else 0)
