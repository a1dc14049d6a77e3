"""Remote headers: bytes, requests, and models a second, against two exact range requests and a server on loopback.

`python tests/benchmarks/bench_remote.py`. The server has a process of its own, so the CPU seconds are the client's.
Models "of one kind" have the same bytes, as copies in a fleet do; of those that are "each its own" no two have the same
config or the same header.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import urllib3
from loopback import HEADER
from timing import note, ratio, report, seconds

from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.files.remote.reading import read_address
from tiecheck.files.remote.store import GUESS
from tiecheck.files.remote.web_directory import WebStore

MODELS = 1_500
THREADS = 64
NAME = "model.safetensors"


@contextmanager
def server(latency: float, faults: float = 0) -> Iterator[str]:
    """The address of a server with so many seconds of latency, and such a part of its answers spoilt."""
    command = [sys.executable, str(Path(__file__).with_name("loopback.py")), str(latency), str(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def moved(url: str) -> list[int]:
    """What the server counted: bytes of bodies, requests, and answers that it spoilt."""
    return json.loads(urllib3.request("GET", f"{url}/moved").data)


def exact(url: str, pool: urllib3.PoolManager) -> int:
    """The header as two range requests get it: its length, then itself."""
    first = pool.request("GET", url, headers={"Range": "bytes=0-7"}).data
    length = int.from_bytes(first, "little")
    return len(pool.request("GET", url, headers={"Range": f"bytes=8-{7 + length}"}).data)


def traffic(url: str) -> None:
    """Bytes and requests of one model, by the server's own count."""
    before = moved(url)
    found = read_address(f"{url}/m/model.safetensors", Config())
    after = moved(url)
    count, requests = after[0] - before[0], after[1] - before[1]
    verdict = "meets" if requests == 2 and count <= 65536 + len(HEADER) + 1000 else "MISSES"
    print(f"one model of 5 GB: {count:,} bytes, {requests} requests, config included; ours says {found.traffic()}")
    note("one model of 5 GB", f"{count:,} bytes, {requests} requests", "64 KiB + header, 2", held=verdict == "meets")
    print(f"  {verdict} one request a file and <= 64 KiB + header ({len(HEADER):,})")


def fleet(what: str, work: Callable[[int], object], threads: int, goal: float | None) -> None:
    """Models a second, by the clock and by the client's CPU; the goal is one core's."""

    def one(i: int) -> None:
        work(i)  # what it gives is dropped: keeping every header would measure the garbage collector

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(2 * threads)))
        cpu, begin = time.process_time(), time.perf_counter()
        list(pool.map(one, range(MODELS)))
        spent, wall = time.process_time() - cpu, time.perf_counter() - begin
    if goal is not None:
        note(f"{what}, 20 ms", f"{MODELS / spent:.0f} a core second", f">= {goal:.0f}", held=MODELS / spent >= goal)
    verdict = "" if goal is None else ("meets" if MODELS / spent >= goal else "MISSES") + f" {goal:.0f} a core"
    print(
        f"{what:<42} {MODELS / wall:6.0f} a second, {MODELS / spent:6.0f} a second of CPU "
        f"({spent / MODELS * 1e3:.2f} ms each)  {verdict}"
    )


def main() -> None:
    """Print the figures."""
    pool = urllib3.PoolManager(maxsize=THREADS)
    with server(0) as url:
        traffic(url)
    for latency, goal in ((0.0, 1.5), (0.02, 0.6)):
        with server(latency) as url:
            weights = f"{url}/m/model.safetensors"
            ours = ratio(
                lambda u=weights: seconds(lambda: read_address(u, Config())),
                lambda u=weights: seconds(lambda: exact(u, pool)),
            )
            report(f"config and header, {latency * 1e3:.0f} ms, against two requests", ours, goal)
    with server(0.02) as url:
        print(f"{MODELS} models at 20 ms, {THREADS} threads")
        fleet(
            "two exact range requests, nothing parsed",
            lambda i: exact(f"{url}/{i}/model.safetensors", pool),
            THREADS,
            None,
        )
        fleet("header alone, not parsed", lambda i: WebStore(f"{url}/{i}").starts([(NAME, GUESS)]), THREADS, 600)
        for what, path in (("of one kind", ""), ("each its own", "/own")):
            models = f"{url}{path}"
            fleet(f"config and header, {what}", lambda i, m=models: read_address(f"{m}/{i}", Config()), THREADS, None)
            goal = 300 if path else 600
            judge = lambda i, m=models: check_target(f"{m}/{i}", Config(), one_of_many=True)  # noqa: E731
            fleet(f"judged, {what}", judge, THREADS, goal)


if __name__ == "__main__":
    main()
