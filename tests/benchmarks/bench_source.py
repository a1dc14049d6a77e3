"""Time of reading sources against `ast.parse` alone: `python tests/benchmarks/bench_source.py [FOLDER] [--runs N]`.

Reads every Python file of a folder (the installed transformers) in turn with both, N times, and prints CPU seconds and
their ratio, and the share of the filter that spares a file that has nothing to do with ties.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import statistics
import time
import warnings
from pathlib import Path

from tiecheck.errors import TargetError
from tiecheck.source.reading import may_tell, parse_source, source_paths


def seconds(data: list[bytes], read: object) -> float:
    """CPU seconds of reading all files once."""
    began = time.process_time()
    for one in data:
        try:
            read(one)  # type: ignore[operator]
        except (SyntaxError, ValueError, TargetError):
            continue
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    spec = importlib.util.find_spec("transformers")
    folder = options.folder or str(Path(spec.origin).parent if spec and spec.origin else ".")
    data = [Path(path).read_bytes() for path in source_paths(folder) if path.endswith(".py")]
    print(f"{len(data)} files, {sum(map(len, data)) / 1e6:.1f} MB; {sum(map(may_tell, data))} are parsed")
    ratios = []
    for _ in range(options.runs):
        alone, ours, sieve = (
            seconds(data, read) for read in (ast.parse, lambda one: parse_source(one, "x.py"), may_tell)
        )
        ratios.append(ours / alone)
        print(f"ast.parse {alone:.2f} s, ours {ours:.2f} s ({ours / alone:.2f}x), the filter alone {sieve:.2f} s")
    print(f"median {statistics.median(ratios):.2f}x")


if __name__ == "__main__":
    main()
