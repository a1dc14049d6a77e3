"""This machine: in this process, or by worker processes of which any may be killed without a loss."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.fleet.rows import Chunk, Done, Judged, judge_chunk

AHEAD = 4
"""Chunks that each worker has: the one it judges, and the next ones; with two it waits where others use the cores."""


def judge_here(chunks: Iterator[Chunk], config: Config) -> Generator[Done]:
    """Judge chunk after chunk in this process."""
    for chunk in chunks:
        yield Done(chunk, judge_chunk(chunk, config), None)


STARTS = 5
"""Processes that may end in a row before they take anything up: more, and none will."""


class _Worker:
    """A process, the pipe to it, and the chunks that it has."""

    def __init__(self, config: Config, chunks: Iterable[Chunk] = ()) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, gc.get_threshold()), daemon=True)
        self.process.start()
        theirs.close()
        self.chunks: list[Chunk] = []
        self.ready = False
        self.end = ""
        for chunk in chunks:
            self.send(chunk)

    def send(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        with contextlib.suppress(OSError):  # it is dead, as the next look at its pipe tells
            self.pipe.send(chunk)

    def done(self) -> Done | None:
        """Return what it sent of its first chunk, and None where it sent that it is ready; its end is an error."""
        judged = self.pipe.recv()
        if not self.ready:
            self.ready = True
            return None
        return Done(self.chunks.pop(0), judged, None)

    def lost(self) -> Done | None:
        """Return the chunk that it ended with, if it was ready; what is left it had not begun."""
        self.process.join()
        code = self.process.exitcode or 0
        self.pipe.close()
        by = signal.Signals(-code).name if code < 0 else ""
        self.end = f"killed its worker ({by})" if by else f"ended its worker (status {code})"
        return Done(self.chunks.pop(0), None, self.end) if self.ready else None


def judge_by_processes(chunks: Iterator[Chunk], config: Config, workers: int) -> Generator[Done]:
    """Judge chunks by some processes; a chunk that a killed one held comes back as failed, the others go on.

    A `TargetError` is raised where several processes in a row end before they take anything up.
    """
    from multiprocessing.connection import wait

    pool = [_Worker(config) for _ in range(workers)]
    stillborn = 0
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
                    done = worker.done()
                except (EOFError, OSError):
                    done = worker.lost()
                    stillborn += 1
                    if stillborn > STARTS and done is None:
                        raise TargetError(f"worker processes end before they begin: the last {worker.end}") from None
                    pool[pool.index(worker)] = _Worker(config, worker.chunks)
                if done is not None:
                    stillborn = 0
                    yield done
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
    pipe.send(None)  # it is ready
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
