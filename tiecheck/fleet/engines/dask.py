"""Dask: a task a chunk, by its own retries; as many at once as keep its workers busy. Tried with distributed 2026.8."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError, TargetError, exception_line
from tiecheck.fleet.rows import Chunk, Done, judge_chunk

LOOK = 10
"""Seconds of waiting after which the cluster is asked whether it has a worker."""

SETTLED = 2
"""Seconds that a worker has been there when it gets a model that may kill it: one that dies while it starts is not
replaced (distributed 2026.8, `Nanny._on_worker_exit`)."""

PATIENCE = 12
"""Such looks in a row that may find none: a cluster may be starting, or be without one for a while."""


def judge_by_dask(chunks: Iterator[Chunk], config: Config, address: str | None, workers: int | None) -> Generator[Done]:
    """Judge chunks on a Dask cluster.

    Args:
        chunks: What to judge.
        config: The options.
        address: The scheduler's; None to start a cluster on this machine.
        workers: Workers of a cluster that is started; None for one a core.

    Raises:
        MissingExtraError: distributed is not installed.
        TargetError: The cluster has no worker, and gets none.
    """
    try:
        from dask import config as settings
        from distributed import Client, wait
    except ImportError as error:
        raise MissingExtraError("--engine dask", "dask") from error
    own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    settled = settings.set({"distributed.scheduler.allowed-failures": 0})  # a model is tried again when all is calm
    with settled, Client(address) if address else Client(**own) as client:
        held: dict[Any, Chunk] = {}
        waiting: Chunk | None = None
        lonely = 0
        lost = False
        while True:
            window = 2 * max(1, sum(client.nthreads().values()))
            while len(held) < window and (chunk := waiting or next(chunks, None)) is not None:
                waiting = chunk if held and 1 in map(len, (chunk, *held.values())) else None
                if waiting is not None:  # one that may kill its worker goes alone: Dask blames all that are on it
                    break
                if lost and len(chunk) == 1:
                    _settle(client)
                lost = False
                held[client.submit(judge_chunk, chunk, config, pure=False)] = chunk
            if not held:
                return
            try:
                done = wait(list(held), timeout=LOOK, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                lonely = 0 if client.nthreads() else lonely + 1
                if lonely == PATIENCE:
                    raise TargetError("the Dask cluster has no worker any more; --resume goes on") from None
                continue
            for future in done:
                failure = future.exception()
                lost = lost or failure is not None
                judged = None if failure else future.result()
                yield Done(held.pop(future), judged, failure and f"failed on Dask: {exception_line(failure)}")


def _settle(client: Any) -> None:
    """Wait until a worker is there, and has been for a while."""
    end = time.monotonic() + LOOK * PATIENCE
    while not client.nthreads() and time.monotonic() < end:
        time.sleep(SETTLED / 10)
    time.sleep(SETTLED)
