"""A fleet against its known truth, and against reading the bytes.

`python bench_fleet.py [COUNT] [local|own|two|ray|nodes|dask|http|s3 ...] [--page]`: `own` has a config of its own for
each directory, a thirtieth of COUNT; `two` takes two processes, `nodes` a Ray cluster of two on this machine. `--page`
writes what was measured into docs/fleet.md, and leaves there what was not. Of engines the last two thirds are timed,
when they have started. Every fault has to be found and none invented, and listed = judged + failed. Rates are told by
the clock and by CPU seconds of this process, and beside them what reading configs and headers of the same directories
alone takes. Of a remote fleet the server answers after 20 ms, and one answer in fifty is an error, a cut or a reset.
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

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
MARK = "<!-- measured: "
ROWS = (
    ("few", "directories of few kinds, 3 % with faults", "", "config and headers, 4 KiB of a tensor"),
    ("own", "directories, each its own", "", "the same"),
    ("HTTP, of one kind", "HTTP, 20 ms, 2 % of answers spoilt, of one kind", "2.04", "65,700"),
    ("HTTP, each its own", "the same, each its own", "2.04", "65,700"),
    ("S3 (moto), of one kind", "S3 (moto), the same faults, of one kind", "2.04, and one a thousand files", "32,700"),
    ("S3 (moto), each its own", "the same, each its own", "2.04, and one a thousand files", "32,700"),
)
"""Key of a figure, what it is a rate of, requests and bytes a model."""
figures: dict[str, float] = {}
"""Models a CPU second by `ROWS`, of reading alone (`floor`); models a second of each engine."""

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
    times: list[tuple[float, int]] = []
    seen = lambda fleet, _: times.append((time.perf_counter(), fleet.judged + fleet.failed))  # noqa: E731
    found = Fleet((source,), config, place, results, seen).run()
    started = next((told for told in times if 3 * told[1] >= times[-1][1]), times[-1])
    figures["last run"] = (times[-1][1] - started[1]) / max(1e-9, times[-1][0] - started[0])
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
        place = (
            EnginePlace()
            if engine in {"local", "own"}
            else EnginePlace("local" if engine == "two" else engine, None, 2)
        )
        found, wall, cpu = run(str(root), place, table)
    figures[engine] = figures.pop("last run")
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
    if engine == "own":
        figures["own"] = len(truth) / cpu
    if engine in {"ray", "dask"} and "two" in figures:
        times = figures[engine] / figures["two"]
        what = f"{engine}: models a second, to those of two processes, both started"
        note(what, f"{times:.2f}x", ">= 0.9x" if engine == "ray" else "", held=engine == "dask" or times >= 0.9)
        print(f"       {times:.2f}x of two processes")
    if engine == "local":
        figures["few"], figures["floor"] = len(truth) / cpu, 1 / floor
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
    figures[what] = count / cpu
    print(f"http   {what}: {summary.status} {found.problem or ''}")
    print(f"       {count / wall:,.0f} a second, {count / cpu:,.0f} a CPU second")
    goal = 300 if "own" in what else 600
    whom = f"{what}: 20 ms, 2 % of answers spoilt"
    note(whom, f"{count / cpu:,.0f} a core second", f">= {goal}", held=count / cpu >= goal)
    print(f"       ours: {summary.bytes:,} bytes, {summary.requests:,} requests")
    for target, why in summary.errors[:3]:
        print(f"       {target}: {why}")


def rounded(figure: float) -> str:
    """Two or three digits of a figure, with commas."""
    digits = 3 if figure >= 100 else 2
    return f"{float(f'{figure:.{digits}g}'):,.0f}" if figure >= 100 else f"{figure:.2g}"


def lasting(seconds: float) -> str:
    """Seconds of a core in words."""
    return f"{rounded(seconds / 3600)} core hours" if seconds >= 1200 else f"{rounded(seconds / 60)} minutes of a core"


def write_page() -> None:
    """Write the measured figures into the page, with those that it had."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    old, _, rest = rest.partition(" -->\n")
    after = rest.partition("<!-- end -->\n")[2]
    held = json.loads(old) | {key: float(f"{figure:.4g}") for key, figure in figures.items() if key != "last run"}
    lines = ["| what is judged | models a CPU second | requests a model | bytes a model |", "|---|---|---|---|"]
    for key, what, requests, size in ROWS:
        more = f" (reading the bytes alone: {rounded(held['floor'])})" if key == "few" else ""
        lines.append(f"| {what} | {rounded(held[key])}{more} | {requests} | {size} |")
    words = {"few": "local, few kinds", "own": "local, each its own"}
    columns = " | ".join(words.get(key, key.replace(" (moto)", "")) for key, *_ in ROWS)
    lines += ["", "By these rates:", "", f"| models | {columns} |", "|---" * 7 + "|"]
    for word, count in (("a million", 1e6), ("a billion", 1e9)):
        lines.append(f"| {word} | {' | '.join(lasting(count / held[key]) for key, *_ in ROWS)} |")
    ray, dask = (held[engine] / held["two"] for engine in ("ray", "dask"))
    lines += ["", "Against two processes (`--workers 2`), all with their start behind them, two workers of Ray judged"]
    lines.append(f"{ray:.2f} times as many directories of few kinds a second, and two of Dask {dask:.2f}.")
    text = f"{before}{MARK}{json.dumps(held)} -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Print the figures."""
    gc.set_threshold(YOUNG)  # as the command does
    page = "--page" in sys.argv
    given = [word for word in sys.argv[1:] if word != "--page"]
    count = int(given[0]) if given else 100_000
    wanted = given[1:] or ["local", "own", "two", "ray", "nodes", "dask", "http", "s3"]
    root = Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        table = root / "out.jsonl"
        engines = [name for name in wanted if name in {"local", "two", "ray", "nodes", "dask"}]
        truth = make_fleet(root / "models", count) if engines else {}
        for engine in engines:
            local(root / "models", truth, engine, table)
        if "own" in wanted:
            local(root / "own", make_fleet(root / "own", count // 30, 2, alike=False), "own", table)
        if "http" in wanted:
            http("", table)
            http("/own", table)
        if "s3" in wanted:
            s3(table)
        if page:
            write_page()
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
