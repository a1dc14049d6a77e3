"""Every benchmark that has a goal, as one page: `python tests/benchmarks/performance.py --write PAGE [SECTION ...]`.

Takes half an hour on a quiet machine. A section that is named is measured, the others stay as the page has them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

SECTIONS = {
    "Start-up": "bench_start.py",
    "Headers": "bench_headers.py",
    "Bytes": "bench_values.py",
    "Live walk": "bench_walk.py",
    "Planning": "bench_planning.py",
    "Remote headers": "bench_remote.py",
    "Fleet": "bench_fleet.py",
}
"""Title -> the benchmark."""

HEAD = f"""# Performance

Made by `python tests/benchmarks/performance.py --write` that page, with Python {platform.python_version()} on two cores
that others used too: ratios of processor time, taken in turns in one run.
"""


def measured(script: str) -> list[str]:
    """Run a benchmark, and return its figures as rows of a table."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as rows:
        path = [
            str(Path(__file__).parent),
            str(Path(__file__).parents[1] / "support"),
            os.environ.get("PYTHONPATH", ""),
        ]
        environment = os.environ | {"PERFORMANCE_ROWS": rows.name, "PYTHONPATH": os.pathsep.join(path)}
        subprocess.run([sys.executable, str(Path(__file__).with_name(script))], env=environment, check=True)
        found = map(json.loads, rows)
        return [
            f"| {what} | {figure} | {goal} | {'met' if held else 'not met'} |" for what, figure, goal, held in found
        ]


def main() -> None:
    """Write the page."""
    _, page, *wanted = sys.argv[1:]
    before = Path(page).read_text(encoding="utf-8") if Path(page).exists() else ""
    parts = [HEAD]
    for title, script in SECTIONS.items():
        old = before.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()
        if wanted and title not in wanted:
            parts.append(f"## {title}\n\n{old}\n")
            continue
        table = ["| what | measured | goal | |", "|---|---|---|---|", *measured(script)]
        said = old.partition("\n\n")[2].strip()  # what was written below the table stays
        parts.append("\n".join([f"## {title}", "", *table, *(["", said] if said else []), ""]))
    Path(page).write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
