"""A fleet against its known truth, and against reading the bytes.

`python bench_fleet.py [COUNT] [local|ray|nodes|dask|http|s3 ...]`, `nodes` being a Ray cluster of two on this machine.
Every fault has to be found and none invented, and listed = judged + failed. Rates are told by the clock and by CPU
seconds of this process, and beside them what reading configs and headers of the same directories alone takes. Of a
remote fleet the server answers after 20 ms, and one answer in fifty is an error, a cut or a reset.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_remote import moved, server
from fleet_maker import make_fleet
from timing import note

from tiecheck.__main__ import YOUNG
from tiecheck.config.options import Config
from tiecheck.fleet.results import Results
from tiecheck.fleet.rows import options_mark
from tiecheck.fleet.run import EnginePlace, Fleet, Outcome

REMOTE = 3_000
"""Models of a fleet behind HTTP."""

BUCKET = 2_000
"""Models of each sort in a bucket."""


def run(source: str, place: EnginePlace, table: Path) -> tuple[Outcome, float, float]:
    """Run a fleet: its outcome, seconds by the clock, and CPU seconds of this process."""
    table.unlink(missing_ok=True)
    config = Config()
    cpu, begin = time.process_time(), time.perf_counter()
    results = Results(str(table), options_mark(config), resume=False)
    found = Fleet((source,), config, place, results, lambda *_: None).run()
    return found, time.perf_counter() - begin, time.process_time() - cpu


def found_by(table: Path) -> Iterator[tuple[str, set[str]]]:
    """Give each model with the codes of its errors, or `error` where it could not be read."""
    codes: set[str] = set()
    with table.open() as lines:
        for row in map(json.loads, lines):
            if row["row"] == "finding":
                codes |= {row["code"]} if row["severity"] == "error" else set()
            else:
                yield row["target"], codes | ({"error"} if row["status"] == "error" else set())
                codes = set()


def read_only(folders: list[str]) -> float:
    """CPU seconds to list folders and read configs and headers, and no more."""
    begin = time.process_time()
    for folder in folders:
        for name in os.listdir(folder):
            with open(f"{folder}/{name}", "rb") as file:
                file.read(int.from_bytes(file.read(8), "little") if name.endswith(".safetensors") else -1)
    return time.process_time() - begin


def local(root: Path, truth: dict[str, set[str]], engine: str, table: Path) -> None:
    """One engine over the directories."""
    before = read_only(list(truth))
    if engine == "nodes":
        with two_nodes() as address:
            found, wall, cpu = run(str(root), EnginePlace("ray", address), table)
    else:
        found, wall, cpu = run(str(root), EnginePlace(engine, workers=None if engine == "local" else 2), table)
    got = dict(found_by(table))
    wrong = Counter(
        "missed" if truth[target] - got.get(target, set()) else "invented"
        for target in truth
        if got.get(target) != truth[target]
    )
    floor = min(before, read_only(list(truth))) / len(truth)
    faulty = sum(map(bool, truth.values()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{engine:<6} {len(truth):,} models, {faulty:,} with a fault: {dict(wrong) or 'all right'}")
    print(f"       {found.summary.run} {found.problem or ''}")
    print(f"       {len(truth) / wall:,.0f} a second, {len(truth) / cpu:,.0f} a CPU second of the driver, {peak} MiB")
    if engine == "local":
        times, rate, what = cpu / len(truth) / floor, len(truth) / cpu, f"{len(truth):,} directories of few kinds"
        print(f"       {times:.1f}x of reading the bytes ({1 / floor:,.0f} a CPU second)")
        note(f"{what}, judged", f"{rate:,.0f} a core second", ">= 8,000", held=rate >= 8_000)
        note(f"{what}, to reading the bytes", f"{times:.1f}x", "<= 3x", held=times <= 3)
    note(f"{engine}: faults missed or invented", f"{sum(wrong.values())} of {faulty:,}", "0", held=not wrong)


@contextmanager
def two_nodes() -> Iterator[str]:
    """Give the address of a Ray cluster of two nodes on this machine, with a worker each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def http(path: str, table: Path) -> None:
    """A fleet behind a loopback HTTP server."""
    with server(0.02, 0.02) as url, tempfile.NamedTemporaryFile("w", suffix=".txt") as manifest:
        manifest.writelines(f"{url}{path}/{i}\n" for i in range(REMOTE))
        manifest.flush()
        found, wall, cpu = run(manifest.name, EnginePlace(), table)
        sent, requests, faults = moved(url)
    told(f"HTTP, {'each its own' if path else 'of one kind'}", found, wall, cpu)
    print(f"       the server: {sent:,} bytes, {requests:,} requests, {faults:,} of them spoilt")


def s3(table: Path) -> None:
    """A fleet in a bucket of moto."""
    from s3_fleet import bucket

    with bucket(BUCKET, 0.02, 0.02) as (address, counts):
        for folder, kind in (("kind", "of one kind"), ("own", "each its own")):
            found, wall, cpu = run(f"{address}/{folder}", EnginePlace(), table)
            told(f"S3 (moto), {kind}", found, wall, cpu)
        print(f"       the server: {counts()}")


def told(what: str, found: Outcome, wall: float, cpu: float) -> None:
    """Print the figures of a remote fleet."""
    summary = found.summary
    count = summary.run.listed
    print(f"http   {what}: {summary.status} {found.problem or ''}")
    print(f"       {count / wall:,.0f} a second, {count / cpu:,.0f} a CPU second")
    goal = 300 if "own" in what else 600
    whom = f"{what}: 20 ms, 2 % of answers spoilt"
    note(whom, f"{count / cpu:,.0f} a core second", f">= {goal}", held=count / cpu >= goal)
    print(f"       ours: {summary.bytes:,} bytes, {summary.requests:,} requests")
    for target, why in summary.errors[:3]:
        print(f"       {target}: {why}")


def main() -> None:
    """Print the figures."""
    gc.set_threshold(YOUNG)  # as the command does
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    wanted = sys.argv[2:] or ["local", "ray", "nodes", "dask", "http", "s3"]
    root = Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        table = root / "out.jsonl"
        engines = [name for name in wanted if name in {"local", "ray", "nodes", "dask"}]
        truth = make_fleet(root / "models", count) if engines else {}
        for engine in engines:
            local(root / "models", truth, engine, table)
        if "http" in wanted:
            http("", table)
            http("/own", table)
        if "s3" in wanted:
            s3(table)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
