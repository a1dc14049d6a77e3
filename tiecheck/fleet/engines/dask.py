"""Dask: a task a chunk, by its own retries; as many at once as keep its workers busy. Tried with distributed 2026.8."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError, exception_line
from tiecheck.fleet.engines.done import Chunk, Done
from tiecheck.fleet.rows import judge_chunk


def judge_by_dask(chunks: Iterator[Chunk], config: Config, address: str | None, workers: int | None) -> Generator[Done]:
    """Judge chunks on a Dask cluster.

    Args:
        chunks: What to judge.
        config: The options.
        address: The scheduler's; None to start a cluster on this machine.
        workers: Workers of a cluster that is started; None for one a core.

    Raises:
        MissingExtraError: distributed is not installed.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingExtraError("--engine dask", "dask") from error
    own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with Client(address) if address else Client(**own) as client:
        window = 2 * max(1, sum(client.nthreads().values()))
        held: dict[Any, Chunk] = {}
        done = as_completed()

        def fill() -> None:
            while len(held) < window and (chunk := next(chunks, None)) is not None:
                future = client.submit(judge_chunk, chunk, config, pure=False)
                held[future] = chunk
                done.add(future)

        fill()
        for future in done:
            chunk = held.pop(future)
            failure = future.exception()
            if failure is None:
                yield Done(chunk, future.result(), None)
            else:
                yield Done(chunk, None, f"failed on Dask: {exception_line(failure)}")
            fill()
