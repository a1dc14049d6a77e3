"""Hostile targets of every kind as a whole process: its sentence, its exit status, its time and its memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from heavy_targets import HEAVY
from hostile_targets import LIGHT, Due

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, devices and the memory of a process are Unix's")

SECONDS, MEBIBYTES = 20.0, 600
"""Processor seconds and memory that a target may take: the limits have it at some seconds and 512 MiB."""

REPORTS = ("status", "errors", "skips", "reason", "findings")


LAUNCH = """
import json, os, subprocess, sys
out, err = open("out.json", "w"), open("err.txt", "w")
process = subprocess.Popen([sys.executable, "-m", "tiecheck", "-f", "json", *sys.argv[1:]], stdout=out, stderr=err)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""Starts a process from a small one: Linux hands the largest size of whoever starts it down."""


def judged(folder: Path, *words: str) -> tuple[list[dict[str, Any]], int, float, float]:
    """Run one process over some targets: their reports, its exit status, processor seconds and MiB."""
    line = [sys.executable, "-c", LAUNCH, *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    assert (folder / "err.txt").read_text() == ""
    status, seconds, mebibytes = json.loads(done.stdout)
    return json.loads((folder / "out.json").read_text())["targets"], status, seconds, mebibytes


def wrong_in(report: dict[str, Any], due: Due) -> list[str]:
    """What a report does not say, or says and should not."""
    told = json.dumps([report[key] for key in REPORTS])
    wrong = [] if report["status"] in due.status.split("|") else [f"status {report['status']}"]
    wrong += [f"nothing like {due.says!r}"] if not re.search(due.says, told) else []
    return wrong + (["a failure of our own"] if "itself failed" in told or "crashed" in told else [])


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
