"""Every benchmark that has a goal, as one page in one run: `python tests/benchmarks/performance.py --write`.

Takes some twelve minutes on a quiet machine, and 3 GB of disk. `--only SECTION` measures that section; the others stay
as the page has them, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "evidence" / "performance.md"

SECTIONS = {
    "Start-up": ["bench_start.py"],
    "Headers": ["bench_headers.py"],
    "Bytes": ["bench_values.py"],
    "Live walk": ["bench_walk.py"],
    "Planning": ["bench_planning.py", "--modules", "4000"],  # accelerate's time is quadratic: a minute at 8,000
    "Remote headers": ["bench_remote.py"],
    "Fleet": ["bench_fleet.py", "100000", "local", "own", "two", "ray", "http", "s3"],
    "Use trace": ["bench_uses.py", "--time"],
    "Cache of verdicts": ["bench_cache.py"],
}
"""Title -> the benchmark, and its arguments."""


def head(minutes: float, only: list[str]) -> str:
    """Return the words above the tables: how they were made, where, and how busy the machine was."""
    how = f"in one run of {minutes:.0f} minutes" if not only else f"section by section, last {', '.join(only)}"
    return f"""# Performance

Made by `python tests/benchmarks/performance.py --write` {how}, with Python {platform.python_version()}
on {os.cpu_count()} cores (load {os.getloadavg()[2]:.1f} at the end): ratios of processor time, taken in turns.
"""


def measured(command: list[str]) -> list[str]:
    """Run a benchmark, and return its figures as rows of a table; one more where it fails."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as rows:
        path = [str(HERE), str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PERFORMANCE_ROWS": rows.name, "PYTHONPATH": os.pathsep.join(path)}
        script, *arguments = command
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], env=environment, check=False)
        found = [json.loads(line) for line in rows]
    if done.returncode:
        found.append([f"{script} ended with {done.returncode}", "", "0", False])
    return [f"| {what} | {figure} | {goal} | {'met' if held else 'not met'} |" for what, figure, goal, held in found]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, nargs="?", const=PAGE, required=True)
    parser.add_argument("--only", action="append", choices=SECTIONS, default=[])
    asked = parser.parse_args()
    before = asked.write.read_text(encoding="utf-8") if asked.write.exists() else ""
    begin, parts = time.monotonic(), []
    for title, command in SECTIONS.items():
        old = before.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()
        if asked.only and title not in asked.only:
            parts.append(f"## {title}\n\n{old}\n")
            continue
        table = ["| what | measured | goal | |", "|---|---|---|---|", *measured(command)]
        said = old.partition("\n\n")[2].strip()  # what was written below the table stays
        parts.append("\n".join([f"## {title}", "", *table, *(["", said] if said else []), ""]))
    minutes = (time.monotonic() - begin) / 60
    asked.write.write_text("\n".join([head(minutes, asked.only), *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
