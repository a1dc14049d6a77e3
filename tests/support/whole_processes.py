"""A whole process of the tool: its reports, exit status, processor seconds and memory; and what they have to be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hostile_targets import Due

REPORTS = ("status", "errors", "skips", "reason", "findings")

LAUNCH = """
import json, os, subprocess, sys
out, err = open("out.json", "w"), open("err.txt", "w")
process = subprocess.Popen([sys.executable, "-m", "tiecheck", "-f", "json", *sys.argv[1:]], stdout=out, stderr=err)
print(process.pid, flush=True)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""Starts a process from a small one: Linux hands the largest size of whoever starts it down."""


def judged(
    folder: Path, *words: str, during: Callable[[int], None] | None = None, prints: bool = False
) -> tuple[list[dict[str, Any]], int, float, float]:
    """Run one process over some targets: their reports, its exit status, processor seconds and MiB.

    `during` is called with its number; `prints` is for targets whose own code may print.
    """
    line = [sys.executable, "-c", LAUNCH, *words]
    with subprocess.Popen(line, cwd=folder, stdout=-1, stderr=-1, text=True) as launcher:
        assert launcher.stdout
        number = int(launcher.stdout.readline())
        if during is not None:
            during(number)
        told, _ = launcher.communicate(timeout=300)
    assert prints or (folder / "err.txt").read_text() == ""
    status, seconds, mebibytes = json.loads(told)
    return json.loads((folder / "out.json").read_text())["targets"], status, seconds, mebibytes


def wrong_in(report: dict[str, Any], due: Due) -> list[str]:
    """What a report does not say, or says and should not."""
    told = json.dumps([report[key] for key in REPORTS])
    wrong = [] if report["status"] in due.status.split("|") else [f"status {report['status']}: {told[:300]}"]
    wrong += [f"nothing like {due.says!r}: {told[:300]}"] if not re.search(due.says, told) else []
    return wrong + ([f"a failure of our own: {told[:300]}"] if "itself failed" in told or "crashed" in told else [])


def exit_of(reports: Iterable[dict[str, Any]]) -> int:
    """The exit status that some reports have: errors before findings; an unknown is 2 where no rule ran on it."""
    status = {report["status"] for report in reports}
    blind = any(
        report["status"] == "unknown" and not report["rules_run"] for report in reports if "rules_run" in report
    )
    return 2 if "error" in status or blind else 1 if "fail" in status else 0
