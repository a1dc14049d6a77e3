"""Holds the gate's word on loads against the loads: `python tests/benchmarks/bench_gate_zoo.py --help`.

Every class that ties something and can be had small, and a sample of those that tie nothing, is saved in several ways
and loaded under several device maps on the CPU with the disk. `--rows` keeps a line a class, so that a run goes on
where it was stopped; `--write` writes the page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import accelerate
import torch
import transformers
from gate_zoo_page import page
from placed_zoo import row_of
from subjects import every, quiet
from truth.run import classes
from zoo import own

import tiecheck
from tiecheck.tables.generate.classes import ClassCandidate

Row = dict[str, Any]

UNTIED = 12
"""Every which of the classes that tie nothing is in the sample."""

PLANS: dict[str, dict[str, tuple[str, ...]]] = {
    "first": {
        "once": ("cpu", "targets", "sources", "members", "auto"),
        "equal": ("targets", "sources", "members"),
        "target": ("targets", "sources", "members", "auto"),
        "pickle": ("targets", "members"),
    },
    "other": {"once": ("targets", "sources", "members", "auto"), "target": ("members",)},
    "untied": {"once": ("half", "auto")},
}
"""What is stored, and the maps that it is loaded under, by the part that a class has here."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("gate-zoo.jsonl"), help="a JSON line a class, kept")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--only", default="", help="these classes alone, a pattern; their rows are made anew")
    parser.add_argument("--run", action="store_true", help="run the classes")
    parser.add_argument("--write", type=Path, help="write the page")
    options = parser.parse_args()
    if options.run:
        only = re.compile(options.only or ".*")
        wanted = [(c, part) for c, part in [*tying(), *untied()] if only.fullmatch(c.class_name)]
        run(wanted, options.rows, options.jobs, anew=bool(options.only))
    if options.write:
        options.write.write_text(page(read_rows(options.rows), versions()))


def versions() -> dict[str, str]:
    """What it was run with."""
    libraries = (tiecheck, transformers, accelerate, torch)
    return {library.__name__: library.__version__ for library in libraries}


def tying() -> list[tuple[ClassCandidate, str]]:
    """Every class of the table that has a group and is built from its own config; the first of each shape first."""
    return [(candidate, "first" if first else "other") for candidate, first in classes()]


def untied() -> list[tuple[ClassCandidate, str]]:
    """A sample of the others."""
    known = {(c.class_name, c.model_type) for c, _ in tying()}
    others = [c for c in every() if (c.class_name, c.model_type) not in known and here(c)]
    return [(c, "untied") for c in others[::UNTIED]]


def here(candidate: ClassCandidate) -> bool:
    """Whether a class is built from its own config, and the packages that it needs are here."""
    try:
        return own(candidate)
    except ImportError:
        return False


def work(wanted: tuple[ClassCandidate, str]) -> Row:
    """The row of a class."""
    candidate, part = wanted
    with quiet():
        return row_of(candidate, PLANS[part]) | {"part": part}


def run(wanted: list[tuple[ClassCandidate, str]], file: Path, jobs: int, *, anew: bool) -> None:
    """Append the row of every class that has none yet."""
    done = set() if anew else {(row["class"], row["model_type"]) for row in read_rows(file)}
    left = [(c, part) for c, part in wanted if (c.class_name, c.model_type) not in done]
    begin = time.perf_counter()
    with file.open("a") as out:
        for i, row in enumerate(_spread(left, jobs), 1):
            out.write(json.dumps(row) + "\n")
            out.flush()
            words = Counter(cell["word"] for cell in row["cells"])
            print(f"{i}/{len(left)} {time.perf_counter() - begin:.0f}s {row['class']} {dict(words)}", flush=True)


def _spread(left: list[tuple[ClassCandidate, str]], jobs: int) -> Iterator[Row]:
    if jobs == 1:
        yield from map(work, left)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, left)


def read_rows(file: Path) -> list[Row]:
    """The rows that were kept, the newest of each class."""
    if not file.exists():
        return []
    rows = (json.loads(line) for line in file.read_text().splitlines())
    newest = {(row["class"], row["model_type"]): row for row in rows}
    return [newest[key] for key in sorted(newest)]


if __name__ == "__main__":
    main()
