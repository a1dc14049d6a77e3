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
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError("--engine dask", "dask") from error
    own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    settled = settings.set({"distributed.scheduler.allowed-failures": 0})  # a model is tried again when all is calm
    with settled, Client(address) if address else Client(**own) as client:
        held: dict[Any, Chunk] = {}
        waiting: Chunk | None = None
        lost = False
        while True:
            window = 2 * max(1, _threads(client, ours=not address))
            while len(held) < window and (chunk := waiting or next(chunks, None)) is not None:
                waiting = chunk if held and 1 in map(len, (chunk, *held.values())) else None
                if waiting is not None:  # one that may kill its worker goes alone: Dask blames all that are on it
                    break
                if lost and len(chunk) == 1:
                    _settle(client, ours=not address)
                lost = False
                held[client.submit(judge_chunk, chunk, config, pure=False)] = chunk
            if not held:
                return
            for future in _ended(client, held, ours=not address):
                if (one := _finished(client, future, held[future])) is not None:
                    del held[future]
                    lost = lost or one.judged is None
                    yield one


def _ended(client: Any, held: dict[Any, Chunk], *, ours: bool) -> tuple[Any, ...]:
    """Return the tasks that have ended, as soon as there is one."""
    from distributed import wait

    lonely = 0
    while lonely < PATIENCE:
        try:
            ended = wait(list(held), timeout=LOOK, return_when="FIRST_COMPLETED")
        except TimeoutError:
            lonely = 0 if _threads(client, ours=ours) else lonely + 1
        else:
            return tuple(ended.done)
    raise TargetError("the Dask cluster has no worker any more; --resume goes on")


def _threads(client: Any, *, ours: bool) -> int:
    """Return how many chunks are judged at once; a worker of ours that died while it started is begun anew."""
    threads = client.nthreads()
    if ours and len(threads) < (wanted := len(client.cluster.worker_spec)):
        client.cluster.scale(wanted)
    return sum(threads.values())


def _finished(client: Any, future: Any, chunk: Chunk) -> Done | None:
    """Return what came of a task; None of one whose result was lost with its worker, which is run again."""
    if judged := client.gather([future], errors="skip"):
        return Done(chunk, judged[0], None)
    failure = future.exception()
    return failure and Done(chunk, None, f"failed on Dask: {exception_line(failure)}")


def _settle(client: Any, *, ours: bool) -> None:
    """Wait until a worker is there, and has been for a while."""
    end = time.monotonic() + LOOK * PATIENCE
    while not _threads(client, ours=ours) and time.monotonic() < end:
        time.sleep(SETTLED / 10)
    time.sleep(SETTLED)
