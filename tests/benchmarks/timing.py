"""Timing for the benchmarks: two things in turn, many times, and the ratio pair by pair."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""Without the switch that would have every start compile our modules anew, as no installed package is."""


def process(command: Sequence[str]) -> float:
    """Seconds of CPU that a fresh process takes, its output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ratio(ours: Callable[[], float], theirs: Callable[[], float], runs: int = 15) -> tuple[float, float, float]:
    """Median seconds of ours, of theirs, and the median of the ratios, measured in turn after one warm-up each."""
    ours()
    theirs()
    pairs = [(ours(), theirs()) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def report(what: str, measured: tuple[float, float, float], goal: float | None = None) -> None:
    """One line: the ratio, what it was held against, and the goal."""
    ours, theirs, times = measured
    verdict = "" if goal is None else f"{'meets' if times <= goal else 'MISSES'} {goal}x"
    print(f"{what:<58} {ours * 1e3:9.1f} ms {theirs * 1e3:9.1f} ms {times:6.2f}x  {verdict}", file=sys.stdout)
    if goal is not None:
        note(what, f"{times:.2f}x", f"<= {goal}x", held=times <= goal)


def note(what: str, figure: str, goal: str, *, held: bool) -> None:
    """Keep a figure with its goal for the page of evidence, where that is being made (`performance.py`)."""
    if rows := os.environ.get("PERFORMANCE_ROWS"):
        with open(rows, "a", encoding="utf-8") as file:
            file.write(json.dumps([what, figure, goal, held]) + "\n")
