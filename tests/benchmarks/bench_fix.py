"""A fix of large checkpoints: kills at each write, a full disk, time against `cp`, memory.

`bench_fix.py DIR` writes a sharded sparse checkpoint of 5 GB and a real one of 2 GB below DIR, and prints what became
of them. `tests/fix/test_giants.py` does the same with small ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from fix_giants import content_of, fix_apart, kill_everywhere, linked, write_giant  # noqa: E402

GB = 1_000_000_000
PAIRS = 7
"""Fixes and copies that are timed in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sparse", type=float, default=5.0, help="GB of the sparse one")
    parser.add_argument("--real", type=float, default=2.0, help="GB of the real one")
    asked = parser.parse_args()
    for title, size, sparse in (("sparse, sharded", asked.sparse, True), ("real", asked.real, False)):
        where = asked.directory / title.partition(",")[0]
        write_giant(where / "pristine", int(size * GB), sharded=sparse, sparse=sparse)
        print(f"{title}, {size} GB:", *told(where), sep="\n  ", flush=True)
        shutil.rmtree(where)


def copied(source: Path, target: Path) -> float:
    """Seconds that `cp` takes for a file, down to the disk as a fix writes it."""
    os.sync()
    begin = time.perf_counter()
    subprocess.run(["cp", "--sparse=auto", "--reflink=never", str(source), str(target)], check=True)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def told(where: Path) -> list[str]:
    """Measure one checkpoint."""
    pristine = where / "pristine"
    changes = max(pristine.glob("*.safetensors"), key=os.path.getsize)
    fixes, writing, copying = [], [], []
    for number in range(PAIRS):  # in turn, since a disk is now fast and now slow
        fix = fix_apart(linked(pristine, where / f"fixed{number}"))
        assert not fix.said, fix
        new = where / f"fixed{number}" / changes.name
        fixes.append(fix)
        writing.append(dict(fix.words)[new.name] - dict(fix.words)["folder made"])
        copying.append(copied(new, where / "copy"))
        if number:
            shutil.rmtree(new.parent)
    new = where / "fixed0" / changes.name
    ratio = statistics.median(mine / theirs for mine, theirs in zip(writing, copying, strict=True))
    whole, more = min(fix.seconds for fix in fixes), max(fix.grown for fix in fixes) / 1024
    lines = [
        f"fix {whole:.2f} s with both judgements, {min(writing):.2f} s of them the writing; {more:.1f} MiB more memory",
        f"cp of what changes, {new.stat().st_size / GB:.2f} GB: {min(copying):.2f} s, {ratio:.2f} x in the median pair",
    ]
    ends = kill_everywhere(pristine, where)
    lines.append(f"killed at each of {len(ends)} writes: nothing lost, {ends.count(False)} times the old, else the new")
    there = linked(pristine, where / "full")
    old = content_of(there)
    full = fix_apart(there, limit=new.stat().st_size // 2)
    assert content_of(there) == old
    lines.append(f"no room: {full.said}")
    return lines


if __name__ == "__main__":
    main()
