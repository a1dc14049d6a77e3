"""Ray: a task a chunk, by its own retries; as many at once as keep its workers busy. Tried with ray 2.60."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError, exception_line
from tiecheck.fleet.rows import Chunk, Done, judge_chunk

RETRIES = 3


def judge_by_ray(chunks: Iterator[Chunk], config: Config, address: str | None, workers: int | None) -> Generator[Done]:
    """Judge chunks on a Ray cluster.

    Args:
        chunks: What to judge.
        config: The options.
        address: The cluster's; None to start one on this machine.
        workers: Workers of a cluster that is started; None for one a core.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--engine ray", "ray") from error
    ours = not ray.is_initialized()
    if ours:
        ender = signal.getsignal(signal.SIGTERM)
        own = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)
        if signal.getsignal(signal.SIGTERM) is not ender:  # Ray would end the process with all that is under way
            signal.signal(signal.SIGTERM, ender)
    try:
        window = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(judge_chunk).options(max_retries=RETRIES)
        shared = ray.put(config)
        held: dict[Any, Chunk] = {}
        while True:
            while len(held) < window and (chunk := next(chunks, None)) is not None:
                held[task.remote(chunk, shared)] = chunk
            if not held:
                return
            for ref in ray.wait(list(held), timeout=10)[0]:  # so that a signal is heard
                chunk = held.pop(ref)
                try:
                    yield Done(chunk, ray.get(ref), None)
                except ray.exceptions.RayError as error:
                    yield Done(chunk, None, f"failed on Ray: {exception_line(error)}")
    finally:
        if ours:
            ray.shutdown()
