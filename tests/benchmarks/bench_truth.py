"""Prints and writes the table of verdicts against ground truth: `python tests/benchmarks/bench_truth.py --help`.

Every class of the tie table is built tiny, saved, changed in many ways, and loaded by transformers 5 and 4.57; every
pair of the corpus is judged at full size and loaded tiny. The whole takes about an hour on one core; `--rows` keeps
what was done, so that a run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
import transformers
from older import older_python
from truth.corpus import judged, pairings
from truth.page import page
from truth.run import Older, classes, row_of

import tiecheck


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("truth-rows.jsonl"), help="a JSON line a class, kept")
    parser.add_argument("--every", type=int, default=1, help="every n-th class only")
    parser.add_argument("--skip", type=int, default=0, help="how many classes to leave out before that")
    parser.add_argument("--only", help="these classes alone, a pattern; their rows are made anew")
    parser.add_argument("--classes", action="store_true", help="run the classes")
    parser.add_argument("--corpus", type=Path, help="run the corpus that lies here")
    parser.add_argument("--write", type=Path, help="write the page")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.classes or options.only:
        run_classes(options.rows, slice(options.skip, None, options.every), options.only)
    if options.corpus:
        run_corpus(options.corpus, options.rows.with_suffix(".corpus.json"))
    if options.write:
        lines = json.loads(options.rows.with_suffix(".corpus.json").read_text())
        rows = sorted(read_rows(options.rows).values(), key=lambda row: (row["class"], row["model_type"]))
        options.write.write_text(page(rows, lines, versions()))


def versions() -> dict[str, str]:
    """What it was run with."""
    asked = "import transformers; print(transformers.__version__)"
    older = subprocess.run([older_python(), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    return {
        "tiecheck": tiecheck.__version__,
        "transformers": f"{transformers.__version__} and {older}",
        "torch": torch.__version__,
    }


def run_classes(file: Path, part: slice, only: str | None) -> None:
    """Append a row for every class that has none yet."""
    rows = read_rows(file)
    wanted = classes()[part]  # the first of each shape of ties first
    if only:
        wanted = [(c, full) for c, full in wanted if re.fullmatch(only, c.class_name)]
    else:
        wanted = [(c, full) for c, full in wanted if (c.class_name, c.model_type) not in rows]
    begin = time.perf_counter()
    with Older() as older, file.open("a") as out:
        for i, (candidate, every_flag) in enumerate(wanted, 1):
            row = row_of(candidate, older, every_flag=every_flag)
            out.write(json.dumps(row) + "\n")
            out.flush()
            told = Counter(k.rsplit("|", 1)[1] for k in row["counts"].elements() if not k.startswith("cells"))
            print(f"{i}/{len(wanted)} {time.perf_counter() - begin:.0f}s {row['class']} {row['seconds']}s {dict(told)}")
            print("".join(f"  WRONG {words}\n" for words in row["wrong"][:3]), end="", flush=True)
            if row["not_built"]:
                print(f"  not built: {row['not_built']}", flush=True)


def run_corpus(corpus: Path, out: Path) -> None:
    """Judge every pair of the corpus, and keep the lines."""
    lines = []
    with Older() as older:
        for pair in pairings(corpus):
            with tempfile.TemporaryDirectory() as where:
                for line in judged(pair, Path(where), older.load):
                    lines.append(line._asdict())
                    print(
                        f"{line.name}: {line.members or '-'}: {line.verdict}; {line.truth}; {line.correct}; "
                        f"fits {line.fits}; {line.seconds:.2f} s"
                    )
                    print("".join(f"  {words}\n" for words in line.why), end="", flush=True)
    out.write_text(json.dumps(lines, indent=1))


def read_rows(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that were kept, the newest of each class."""
    if not file.exists():
        return {}
    rows = (json.loads(line) for line in file.read_text().splitlines())
    return {(row["class"], row["model_type"]): row for row in rows}


if __name__ == "__main__":
    main()
