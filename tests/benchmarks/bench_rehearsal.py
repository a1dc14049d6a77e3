"""Hold the rehearsal against real loads of tiny models, and measure it on the largest ones.

`bench_rehearsal.py --minutes 6 --older PYTHON --python PYTHON --write docs/evidence/rehearsal.md`. Classes are taken in
a drawn order, each untouched and with one drawn change, until the time is over; `--older` holds a part of them against
4.57.6 in its own environment, and each `--python` rehearses the large ones in another interpreter.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

from drawn_saves import draws  # noqa: E402
from giant_headers import DEEPSEEK_671B, LLAMA_70B, Headers, deepseek_headers, llama_headers  # noqa: E402
from real_loads import Real, differences, older_loads, tell  # noqa: E402
from servers import Files  # noqa: E402
from subjects import quiet  # noqa: E402
from zoo import animal, own  # noqa: E402

import tiecheck  # noqa: E402
from tiecheck.live.rehearsal import Rehearser, rehearse, shadow_directory  # noqa: E402
from tiecheck.tables.generate.classes import class_candidates  # noqa: E402

ALONE = """
import json, resource, sys, time
import tiecheck.live.rehearsal as rehearsal
import transformers, torch
getattr(transformers, json.load(open(sys.argv[1] + "/config.json"))["architectures"][0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, cpu = time.perf_counter(), time.process_time()
told = rehearsal.rehearse(sys.argv[1], values=False)
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problem = told.raised or told.unsure
print(json.dumps([seconds, cpu, (after - before) / 1024, problem, len(told.held), len(told.missing)]))
"""
"""A rehearsal in a process of its own, measured above the import of transformers and of the class."""


def candidates(seed: int) -> Iterator[Any]:
    """Yield the classes that can be had small, in a drawn order."""
    some = list(class_candidates())
    random.Random(seed).shuffle(some)
    for candidate in some:
        try:
            if own(candidate):
                yield animal(candidate)
        except Exception:  # noqa: BLE001 - needs a further library, or refuses a tiny config
            continue


def held(classes: Iterator[Any], minutes: float, told: Any, real: Real) -> tuple[int, int, list[str]]:
    """Return the numbers of classes and directories that were rehearsed and loaded, and every difference."""
    until, count, number, wrong = time.monotonic() + 60 * minutes, 0, 0, []
    for number, one in enumerate(classes, 1):
        with tempfile.TemporaryDirectory() as where:
            try:
                drawn = list(draws(one, Path(where), random.Random(number), 1))
            except Exception:  # noqa: BLE001 - it refuses to be saved or changed
                continue
            for words, path in drawn:
                answer = told(str(path))
                if "has no class" in (answer.unsure or ""):
                    continue
                count += 1
                name = one.model_class.__name__
                wrong += [f"{name}: {words}: {line}" for line in differences(answer, path, real)]
        if time.monotonic() > until:
            break
    return number, count, wrong


def texts_of(config: dict[str, Any], headers: Headers) -> dict[str, str]:
    """Return config and index."""
    index = {"weight_map": {name: file for file, entries in headers.items() for name in entries}, "metadata": {}}
    return {"config.json": json.dumps(config), "model.safetensors.index.json": json.dumps(index)}


def giants(pythons: list[str]) -> Iterator[str]:
    """Yield a row for each large model: alone, in each other interpreter, and from a server."""
    for config, headers in ((LLAMA_70B, llama_headers(80, 8192, 128256, 28672)), (DEEPSEEK_671B, deepseek_headers())):
        name = config["architectures"][0]
        with shadow_directory(texts_of(config, headers), headers) as path:
            size = sum(file.stat().st_size for file in Path(path).iterdir()) / 1e9
            tensors = sum(map(len, headers.values()))
            done = subprocess.run([sys.executable, "-c", ALONE, path], capture_output=True, text=True, check=True)
            seconds, cpu, mib, problem, count, missing = json.loads(done.stdout.splitlines()[-1])
            what = f"{name}, {size:,.0f} GB, {tensors:,} tensors in {len(headers)} files"
            word = problem or f"{count} parameters, {missing} missing"
            cost = f"{cpu:.1f} s of CPU, {seconds:.1f} s, {mib:.0f} MiB above the import"
            yield f"| {what} | in process | {cost} | {word} |"
            for python in pythons:
                begin = time.perf_counter()
                with Rehearser(python) as other:
                    told = other.rehearse(path, values=False)
                word = told.raised or told.unsure or f"{len(told.held)} parameters, {len(told.missing)} missing"
                took = f"{time.perf_counter() - begin:.1f} s with the import"
                yield f"| {what} | `--python`, transformers {told.version} | {took} | {word} |"
            yield f"| {what} | from a loopback server | {served(path)} |"


def served(path: str) -> str:
    """Rehearse a directory from a server; return time and bytes moved, and the word."""
    files: dict[str, Any] = {}
    for file in Path(path).iterdir():
        with file.open("rb") as opened:
            files[f"/m/{file.name}"] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    server = Files(files)
    begin = time.perf_counter()
    (report,) = tiecheck.check(f"{server.url}/m", rehearse=True, values="never").targets
    seconds = time.perf_counter() - begin
    server.close()
    views = sorted({view.checked for view in report.loaders if (view.loader, view.versions) == ("transformers", "5")})
    word = "; ".join(error.message for error in report.errors) or f"{report.status}, checked: {', '.join(views)}"
    return f"{seconds:.1f} s, {server.sent / 1e6:.1f} MB in {len(server.requests)} requests | {word}"


def main() -> None:
    """Run, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--older", help="a Python that has transformers 4.57")
    parser.add_argument("--python", action="append", default=[], help="another interpreter to rehearse the large ones")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    import transformers

    with quiet():
        rows = list(giants(asked.python))
        found = [(transformers.__version__, *held(candidates(asked.seed), asked.minutes, rehearse, tell))]
        if asked.older:
            with Rehearser(asked.older) as other, older_loads(asked.older) as real:
                found.append(("4.57.6", *held(candidates(asked.seed), asked.minutes, other.rehearse, real)))
    lines = ["# The rehearsal against real loads", ""]
    lines += [
        f"`python tests/benchmarks/bench_rehearsal.py --minutes {asked.minutes:g} --seed {asked.seed}` with other"
    ]
    lines += [f"interpreters, on {os.cpu_count()} cores of {platform.machine()} beside other work.", ""]
    lines += [
        "Tiny models, each untouched and with one drawn change of members, flags or files, rehearsed and loaded:",
        "",
    ]
    lines += ["| transformers | classes | directories | differences |", "|---|---|---|---|"]
    lines += [f"| {version} | {n} | {count:,} | {len(wrong)} |" for version, n, count, wrong in found]
    lines += [
        "",
        "A rehearsal reads no values: where a class converts what it loads, what a parameter holds may differ.",
        "",
    ]
    lines += [f"- {version}: {line}" for version, _, _, wrong in found for line in wrong]
    lines += ["", "Sparse files of full size:", ""]
    lines += ["| model | by | cost | word |", "|---|---|---|---|", *rows]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
