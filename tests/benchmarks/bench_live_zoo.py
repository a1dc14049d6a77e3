"""Holds the live layer against every class of transformers: `python tests/benchmarks/bench_live_zoo.py --help`.

Each class is built on meta at its full size, as its default config has it and, where it can tie anything, with the
flag forced true and false. `--rows` keeps a line a model, so that a run goes on where it was stopped; `--write` writes
the page. `--breaks` breaks the ties of every class that ties, small and with weights, in many ways.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import broken
import torch
import transformers
import verdicts
from live_zoo_page import page
from subjects import VARIANTS, ClassCandidate, every, quiet
from zoo import own

import tiecheck
from tiecheck.tables.architectures import load_architecture

Row = dict[str, Any]

BAD = ("missed", "wrong kind", "false alarm")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("live-zoo.jsonl"), help="a JSON line a model, kept")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--only", default="", help="these classes alone, a pattern; their rows are made anew")
    parser.add_argument("--untouched", action="store_true", help="build every class and check it as it is")
    parser.add_argument("--breaks", action="store_true", help="break the ties of every class that has some")
    parser.add_argument("--write", type=Path, help="write the page")
    options = parser.parse_args()
    only = re.compile(options.only or ".*")
    if options.untouched:
        wanted = [c for c in every() if only.fullmatch(c.class_name)]
        run(untouched, wanted, options.rows, options.jobs, anew=bool(options.only))
    if options.breaks:
        wanted = [c for c in every() if only.fullmatch(c.class_name) and ties(c)]
        run(breaking, wanted, options.rows.with_suffix(".broken.jsonl"), options.jobs, anew=bool(options.only))
    if options.write:
        broken_rows = read_rows(options.rows.with_suffix(".broken.jsonl"))
        options.write.write_text(page(read_rows(options.rows), broken_rows, versions()))


def versions() -> dict[str, str]:
    """What it was run with."""
    return {"tiecheck": tiecheck.__version__, "transformers": transformers.__version__, "torch": torch.__version__}


def ties(candidate: ClassCandidate) -> bool:
    """Whether a class has a group in the tie table, and is built from its own config."""
    return bool(load_architecture(candidate.class_name, candidate.model_type).ties) and own(candidate)


def breaking(candidate: ClassCandidate) -> list[Row]:
    """The row of one class's breaks."""
    with quiet():
        return [broken.row_of(candidate)]


def untouched(candidate: ClassCandidate) -> list[Row]:
    """The rows of one class: its default, and both flags where it declares or holds a tie, or has what could be one."""
    with quiet():
        first = verdicts.row_of(candidate, "default")
        if first["not_built"] or not (first["declares"] or first["groups"] or first["heads"] == "two of one shape"):
            return [first]
        return [first, *(verdicts.row_of(candidate, variant) for variant in VARIANTS[1:])]


def run(
    work: Callable[[ClassCandidate], list[Row]], wanted: list[ClassCandidate], file: Path, jobs: int, *, anew: bool
) -> None:
    """Append the rows of every class that has none yet."""
    done = set() if anew else {(row["class"], row["model_type"]) for row in read_rows(file)}
    left = [c for c in wanted if (c.class_name, c.model_type) not in done]
    begin = time.perf_counter()
    with file.open("a") as out:
        for i, rows in enumerate(_spread(work, left, jobs), 1):
            out.writelines(json.dumps(row) + "\n" for row in rows)
            out.flush()
            wrong = [words for row in rows for words in row.get("wrong", ())]
            wrong += [f"{o['way']}: {o['word']}" for row in rows for o in row.get("outcomes", ()) if o["word"] in BAD]
            loud = [f for row in rows for f in row.get("findings", ()) if f["severity"] != "info"]
            if wrong or loud or i % 50 == 0:
                codes = sorted({f["code"] for f in loud})
                print(f"{i}/{len(left)} {time.perf_counter() - begin:.0f}s {rows[0]['class']} {codes} {wrong[:2]}")
                sys.stdout.flush()


def _spread(work: Callable[[ClassCandidate], list[Row]], left: list[ClassCandidate], jobs: int) -> Iterator[list[Row]]:
    if jobs == 1:
        yield from map(work, left)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(functools.partial(work), left, chunksize=4)


def read_rows(file: Path) -> list[Row]:
    """The rows that were kept, the newest of each class and variant."""
    if not file.exists():
        return []
    rows: Iterable[Row] = (json.loads(line) for line in file.read_text().splitlines())
    newest = {(row["class"], row["model_type"], row["variant"]): row for row in rows}
    return [newest[key] for key in sorted(newest)]


if __name__ == "__main__":
    main()
