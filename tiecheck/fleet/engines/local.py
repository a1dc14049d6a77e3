"""This machine: in this process, or by worker processes of which any may be killed without a loss."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any

from tiecheck.config.options import Config
from tiecheck.fleet.rows import Chunk, Done, Judged, judge_chunk

AHEAD = 2
"""Chunks that each worker has: the one it judges, and the next."""


def judge_here(chunks: Iterator[Chunk], config: Config) -> Generator[Done]:
    """Judge chunk after chunk in this process."""
    for chunk in chunks:
        yield Done(chunk, judge_chunk(chunk, config), None)


class _Worker:
    """A process, the pipe to it, and the chunks that it has."""

    def __init__(self, config: Config) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, gc.get_threshold()), daemon=True)
        self.process.start()
        theirs.close()
        self.chunks: list[Chunk] = []

    def send(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        with contextlib.suppress(OSError):  # it is dead, as the next look at its pipe tells
            self.pipe.send(chunk)

    def ended(self) -> str:
        """Say how it came to its end."""
        self.process.join()
        code = self.process.exitcode or 0
        self.pipe.close()
        return f"killed its worker ({signal.Signals(-code).name})" if code < 0 else f"ended its worker (status {code})"


def judge_by_processes(chunks: Iterator[Chunk], config: Config, workers: int) -> Generator[Done]:
    """Judge chunks by some processes; a chunk that a killed one held comes back as failed, the others go on."""
    from multiprocessing.connection import wait

    pool = [_Worker(config) for _ in range(workers)]
    try:
        while True:
            for worker in pool:
                while len(worker.chunks) < AHEAD and (chunk := next(chunks, None)) is not None:
                    worker.send(chunk)
            busy = {worker.pipe: worker for worker in pool if worker.chunks}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    judged = worker.pipe.recv()
                except (EOFError, OSError):
                    why, held = worker.ended(), worker.chunks
                    new = pool[pool.index(worker)] = _Worker(config)
                    yield Done(held[0], None, why)
                    for chunk in held[1:]:
                        new.send(chunk)
                else:
                    yield Done(worker.chunks.pop(0), judged, None)
    finally:
        for worker in pool:
            worker.process.terminate()


def _serve(pipe: Any, config: Config, collecting: tuple[int, int, int]) -> None:
    """Judge what comes through the pipe until it is closed; an interrupt is the driver's business.

    Garbage is collected as seldom as in the driver. Another thread sends: while the driver and a worker both send more
    than a pipe holds, somebody has to read.
    """
    from concurrent.futures import ThreadPoolExecutor

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(*collecting)
    sender = ThreadPoolExecutor(1)
    try:
        while True:
            sender.submit(_send, pipe, judge_chunk(pipe.recv(), config))
    except (EOFError, OSError):
        os._exit(0)


def _send(pipe: Any, judged: Judged) -> None:
    with contextlib.ExitStack() as failed:
        failed.callback(os._exit, 1)  # nobody else would tell the driver, which waits for it
        pipe.send(judged)
        failed.pop_all()
