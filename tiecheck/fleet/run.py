"""A run over a fleet: lists, has chunks judged, writes rows as they come, and holds the counts against each other."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import FrameType
from typing import NamedTuple

from tiecheck.config.options import Config
from tiecheck.errors import TiecheckError, shown
from tiecheck.fleet.listed import Listed
from tiecheck.fleet.results import Results, read_row_groups
from tiecheck.fleet.rows import Chunk, Done, Judged, failed_rows
from tiecheck.fleet.sources import list_models
from tiecheck.fleet.tally import FleetTally
from tiecheck.records.fleet import FleetSummary, RunCounts

CHUNK = 100
"""Models of a task: a task of a cluster costs as much as judging some of them."""

TRIES = 3
"""Times that a model whose worker dies is tried: in its chunk, and then alone."""


class EnginePlace(NamedTuple):
    """Where models are judged."""

    engine: str = "local"
    """local, ray or dask."""
    address: str | None = None
    """The cluster's; None to start one here."""
    workers: int | None = None
    """Processes; None for what is fastest: of `local` this process."""


class Outcome(NamedTuple):
    """The end of a run."""

    summary: FleetSummary
    problem: str | None
    """Reason why the run is not complete; None where it is."""
    stopped: int | None
    """The signal that stopped it; None where none did."""


class _Feed(Iterator[Chunk]):
    """The chunks to judge: those that are tried again before new ones. Gives more after it was empty."""

    def __init__(self, models: Iterable[Listed], size: int) -> None:
        self.again: deque[tuple[Chunk, int]] = deque()
        self.tries: dict[Chunk, int] = {}
        self.problem: str | None = None
        self.stopped: int | None = None
        self.listing = False
        self._chunks = in_chunks(models, size)

    def __next__(self) -> Chunk:
        if self.stopped is not None:
            raise StopIteration
        if self.again:
            chunk, tries = self.again.popleft()
            self.tries[chunk] = tries
            return chunk
        self.listing = True
        try:
            return next(self._chunks)
        except TiecheckError as error:
            self.problem = str(error)
        except KeyboardInterrupt:
            if self.stopped is None:
                raise
        finally:
            self.listing = False
        raise StopIteration

    def failed(self, done: Done) -> Judged | None:
        """Have the models of a chunk tried again, each alone; return the row of one that was tried often enough."""
        tries = self.tries.pop(done.chunk, 1)
        if len(done.chunk) == 1 and tries >= TRIES:
            return failed_rows(done.chunk[0], f"{shown(done.chunk[0].target)} {done.error}, {tries} times")
        self.again.extend(((model,), tries + 1) for model in done.chunk)
        return None


class Fleet:
    """One run."""

    def __init__(
        self,
        sources: tuple[str, ...],
        config: Config,
        place: EnginePlace,
        results: Results | None,
        seen: Callable[[Fleet, Judged], None],
    ) -> None:
        """Take what is to be done."""
        self.tally = FleetTally()
        self.listed = self.skipped = self.judged = self.failed = 0
        self._config, self._place, self._results = config, place, results
        self._seen = seen
        self._begin = time.perf_counter()
        self._feed = _Feed(self._wanted(sources), CHUNK)

    def run(self) -> Outcome:
        """Do it, up to a signal or to what keeps it from going on; what was judged by then is written."""
        feed = self._feed
        with self._signals(), contextlib.closing(self._engine()) as engine:
            try:
                for done in engine:
                    judged = done.judged or feed.failed(done)
                    if judged is not None:
                        self._take(judged)
            except OSError as error:
                feed.problem = f"{error.filename or 'the results'} cannot be written: {error.strerror or error}"
            except TiecheckError as error:
                feed.problem = str(error)
        if self._results is not None:
            try:
                self._results.close()
            except OSError as error:
                feed.problem = feed.problem or f"{self._results.path} cannot be written: {error.strerror or error}"
        listed = self.judged + self.failed + self.skipped
        if feed.problem is None and feed.stopped is None and listed != self.listed:
            feed.problem = f"{self.listed} models were listed, and {listed} judged, failed or skipped"
        return Outcome(self._summary(), feed.problem, feed.stopped)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._begin

    def _wanted(self, sources: tuple[str, ...]) -> Iterator[Listed]:
        for model in list_models(sources):
            self.listed += 1
            if self._results is not None and self._results.holds(model):
                self.skipped += 1
            else:
                yield model

    def _engine(self) -> Generator[Done]:
        name, address, workers = self._place
        if name == "ray":
            from tiecheck.fleet.engines.ray import judge_by_ray

            return judge_by_ray(self._feed, self._config, address, workers)
        if name == "dask":
            from tiecheck.fleet.engines.dask import judge_by_dask

            return judge_by_dask(self._feed, self._config, address, workers)
        from tiecheck.fleet.engines import local

        if (workers or 1) > 1:
            return local.judge_by_processes(self._feed, self._config, workers or 1)
        return local.judge_here(self._feed, self._config)

    def _take(self, judged: Judged) -> None:
        if self._results is not None:
            self._results.write(judged.lines)
        self.tally.merge(judged.tally)
        errors = judged.tally.plain["status error"]
        self.failed += errors
        self.judged += judged.tally.plain["models"] - errors
        self._seen(self, judged)

    def _summary(self) -> FleetSummary:
        tally = self.tally
        if self._results is not None and self._results.resumed:  # the rows of earlier runs count too
            tally = tally_rows(self._results.path)
        complete = self._feed.problem is None and self._feed.stopped is None
        counts = RunCounts(self.listed, self.judged, self.failed, self.skipped, self.seconds, complete)
        return tally.summary(counts)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """End the list at the first signal, so that what is being judged is still written; at the second one stop."""

        def stop(number: int, _frame: FrameType | None) -> None:
            again = self._feed.stopped is not None
            self._feed.stopped = number
            if again or self._feed.listing:  # a list may be long without a model, or wait for a server
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def tally_rows(path: str) -> FleetTally:
    """Return the counts of a table that was written; a `TargetError` where it is none."""
    tally = FleetTally()
    for rows in read_row_groups(path):
        tally.add(rows)
    return tally


def in_chunks(models: Iterable[Listed], size: int) -> Iterator[tuple[Listed, ...]]:
    """Give some models in tuples of a size, the last one shorter."""
    models = iter(models)
    while chunk := tuple(itertools.islice(models, size)):
        yield chunk
