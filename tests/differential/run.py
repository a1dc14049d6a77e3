"""Hold plain `tiecheck DIR` against transformers on drawn directories; see `harness/`.

`run.py --directories 200 --classes 40 --seed 1 --older PYTHON --write docs/evidence/differential.md`, and
`run.py --replay "Case('LlamaForCausalLM', 'llama')" --keep DIR` for one that was printed. With `--untouched` each save
is judged as it was written, with `--minutes` as many as there is time for.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]

from harness.cases import read_case, untouched  # noqa: E402
from harness.collect import Bench, Judged, collect, drawn  # noqa: E402
from harness.evidence import page  # noqa: E402
from harness.mending import collect_mends, mends_page  # noqa: E402
from harness.oracle import Oracle  # noqa: E402
from harness.saves import pool  # noqa: E402
from subjects import quiet  # noqa: E402

MEMORY = 12 << 30
"""Bytes that the process may take: a drawn config may ask for billions of parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directories", type=int, default=200)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--older", help="a Python that has transformers 4.57")
    parser.add_argument("--write", type=Path, help="the page to write")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="the time to judge in")
    parser.add_argument("--untouched", action="store_true", help="each save as it was written, instead of drawn ones")
    parser.add_argument("--mends", action="store_true", help="carry out the fixes that are offered, and load them")
    parser.add_argument("--replay", help="a case as it was printed")
    parser.add_argument("--keep", type=Path, help="where to write the replayed directory")
    asked = parser.parse_args()
    if asked.older:
        os.environ["TIECHECK_TRANSFORMERS_4"] = asked.older
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with quiet():
        if asked.replay:
            replay(asked.replay, asked.older, asked.keep)
            return
        saves = list(pool(asked.seed, asked.classes, older=bool(asked.older)))
        say(f"{len(saves)} saves of {len({save.class_name for save in saves})} classes")
        done: list[bool] = []

        def tell(one: Judged) -> None:
            done.append(bool(one.wrong))
            if len(done) % 50 == 0:
                say(f"{len(done)} directories, {sum(done)} with a wrong word")

        those = [untouched(save) for save in saves] if asked.untouched else drawn(saves, asked.directories, asked.seed)
        if asked.mends:
            about = f"\nSeed {asked.seed}, {asked.directories:,} directories of {asked.classes} classes."
            text = mends_page(collect_mends(those, asked.older, tell_number), about)
        else:
            text = page(collect(those, asked.seed, asked.older, tell, asked.minutes), vars(asked))
    print(text)
    if asked.write:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text(text)


def say(text: str) -> None:
    """Tell how far it is."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def tell_number(number: int) -> None:
    """Tell each fiftieth directory."""
    if number % 50 == 0:
        say(f"{number} directories")


def replay(text: str, older: str | None, keep: Path | None) -> None:
    """Print every word on one case, and what transformers says."""
    case, oracle = read_case(text), Oracle(older)
    with tempfile.TemporaryDirectory() as scratch:
        where = keep or Path(scratch, "model")
        bench = Bench(oracle, where, random.Random(0), share=1.0)
        judged = bench.judge(case)
        for line in oracle.ask(where, case.draft(), real=False):
            told = line.rehearsal
            print(line.version, "exact" if line.right() else "", f"{told.raised=} {told.unsure=} {told.missing[:5]=}")
            print("   ", {names: line.end(names) for names in sorted(line.groups())[:6]})
    print("status", judged.status, "healthy", judged.healthy)
    for word in judged.words:
        print(f"{'WRONG ' if word.wrong else ''}{word.kind} {word.line} {word.what}: {word.why}")
    oracle.close()


if __name__ == "__main__":
    main()
