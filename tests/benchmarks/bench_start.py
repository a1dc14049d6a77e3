"""The cold start of each door, as a whole process, against a process that imports click.

`python tests/benchmarks/bench_start.py`; the ratios count, not the milliseconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from timing import process, ratio, report

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
CLICK = [sys.executable, "-c", "import click"]
TORCH = [sys.executable, "-c", "import torch"]


def main() -> None:
    """Print one line for each door."""
    ours = [sys.executable, "-m", "tiecheck"]
    gpt2 = str(MODELS / "gpt2-healthy-sharded")
    print(f"{'whole process (CPU)':<58} {'ours':>12} {'import click':>12}  ratio  goal")
    for what, arguments, goal in (
        ("tiecheck GPT2_DIR, piped", [gpt2], 1.5),
        ("tiecheck GPT2_DIR, with rich", ["--color", "always", gpt2], 2.2),
        ("tiecheck --version", ["--version"], 1.3),
        ("tiecheck rule TIE101", ["rule", "TIE101"], 1.3),
    ):
        report(what, ratio(lambda a=arguments: process([*ours, *a]), lambda: process(CLICK)), goal)
    report(
        "tiecheck GPT2_DIR against `import torch`", ratio(lambda: process([*ours, gpt2]), lambda: process(TORCH), 5), 1
    )


if __name__ == "__main__":
    main()
