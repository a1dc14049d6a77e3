"""A run over 1,000 directories that were judged before, against the first run: CPU of whole processes.

`python tests/benchmarks/bench_cache.py [--write docs/evidence/cache.md]`; some minutes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timing

from tiecheck.engine.verdict_cache import RECENT

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleets import drawn_fleet

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
COUNT, RUNS, GOAL = 1_000, 5, 0.2


def copies(root: Path) -> list[str]:
    """Copy the fixtures that have weights in turn: more than twenty kinds of directories, many of each."""
    kinds = [folder for folder in sorted(MODELS.iterdir()) if folder.is_dir()]
    made = []
    for i in range(COUNT):
        made.append(str(root / f"m{i:04}"))
        shutil.copytree(kinds[i % len(kinds)], made[-1])
    return made


def measured(targets: list[str], cache: Path) -> tuple[float, float]:
    """Return the median seconds of a first run and of one more."""
    timing.ENVIRONMENT["XDG_CACHE_HOME"] = str(cache)
    command = [sys.executable, "-m", "tiecheck", *targets]
    time.sleep(2 * RECENT / 1e9)  # what was just written is not kept
    first, again = [], []
    for _ in range(RUNS):
        shutil.rmtree(cache, ignore_errors=True)
        first.append(timing.process(command))
        again.append(timing.process(command))
    return statistics.median(first), statistics.median(again)


def main() -> None:
    """Print the figures, or write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    lines = [
        "# The cache of verdicts",
        "",
        "Made by `python tests/benchmarks/bench_cache.py --write docs/evidence/cache.md`: CPU of `tiecheck` over 1,000",
        f"directories, first and again, in turn, the median of {RUNS}. Goal: {GOAL}. A verdict is told again where the",
        "options, the build and every file of the directory are the same by mode, device, inode, size and times.",
        "",
        "| 1,000 directories | first | again | ratio |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for what, targets in (
            ("copies of the fixtures", copies(root / "copies")),
            ("drawn Llamas of 8 rows", list(drawn_fleet(root / "drawn", COUNT, 1))),
        ):
            first, again = measured(targets, root / "cache")
            lines.append(f"| {what} | {first:.2f} s | {again:.2f} s | {again / first:.2f} |")
            figure, held = f"{again / first:.2f}x", again <= GOAL * first
            timing.note(f"{COUNT:,} {what}, again over first", figure, f"<= {GOAL}x", held=held)
    lines += [
        "",
        "The small Llamas are so alike that a first run hardly reads them: half of their second run is the start of",
        "the process and the writing of the report.",
    ]
    text = "\n".join(lines) + "\n"
    if asked.write:
        asked.write.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
