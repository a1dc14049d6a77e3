"""The table of a fleet: rows written as they come, taken up again after a stop, and turned into Parquet at the end.

A table is one file of JSON lines that only grows, in which a model's row stands behind those of its findings: what
follows the last model's row was cut off, and is cut away. For `out.parquet` that file is `out.parquet.partial` while
the run lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from tiecheck._version import __version__
from tiecheck.errors import TargetError, UsageError
from tiecheck.fleet.lines import read_lines
from tiecheck.fleet.listed import Listed, value_digest, written_target
from tiecheck.fleet.parquet import need_pyarrow, read_parquet, write_parquet
from tiecheck.fleet.rows import row_lines, sound_row
from tiecheck.fleet.sources import current_mark
from tiecheck.records.fleet import FleetChange, FleetComparison

Group = list[dict[str, Any]]
"""Rows of one model: its findings', then its own."""

PARTIAL = ".partial"
LOCK = ".lock"


class Results:
    """A table that is being written."""

    def __init__(self, path: str, options: str, *, resume: bool) -> None:
        """Open it.

        Args:
            path: A file that ends in `.jsonl` or `.parquet`.
            options: The options of the run in short: what was judged by others is judged again.
            resume: Whether to go on with a file that is there.

        Raises:
            UsageError: The file is there, and is not to be taken up; or its ending is not known.
            TargetError: It cannot be read or written.
        """
        if not path.endswith((".jsonl", ".parquet")):
            raise UsageError(f"{path}: results are written to a file that ends in .jsonl or .parquet")
        self.path = path
        self.resumed = False
        self.dropped = 0
        """Lines of an earlier run that could not be read; their models are judged again."""
        self._options = options
        self._journal = path + PARTIAL if path.endswith(".parquet") else path
        self._earlier: dict[int, int] = {}
        self._again: set[int] = set()
        if path.endswith(".parquet"):
            need_pyarrow()
        self._lock = _locked(self._journal)
        try:
            self._fd = self._opened(resume=resume)
        except OSError as error:
            self._unlock()
            raise TargetError(f"{self._journal} cannot be used: {error.strerror or error}", self._journal) from error
        except BaseException:
            self._unlock()
            raise

    def holds(self, model: Listed) -> bool:
        """Tell whether the row of an earlier run still holds; if there is one that does not, it goes at the end."""
        if not self._earlier:
            return False
        key = _number(written_target(model.target))
        before = self._earlier.get(key)
        if before is None:
            return False
        if before == _number((current_mark(model), __version__, self._options)):
            return True
        self._again.add(key)
        return False

    def write(self, lines: bytes) -> None:
        """Append some rows; a disk that is full is an `OSError`, and leaves none of them half written."""
        size = os.fstat(self._fd).st_size
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        """End the table: rows that newer ones replace are taken out, and Parquet is made where that was asked for.

        Raises:
            OSError: It cannot be written; the rows are still there, and another run can take them up.
        """
        try:
            os.close(self._fd)
            if self._again:
                self._drop_older()
            if self._journal != self.path:
                with _whole(self.path) as new:
                    write_parquet(new, _groups(self._journal))
                os.unlink(self._journal)
        finally:
            self._unlock()

    def _opened(self, *, resume: bool) -> int:
        """Return a descriptor to append to the journal, taken up where it is there."""
        there = next((name for name in (self._journal, self.path) if os.path.exists(name)), None)
        if there is not None and not resume:
            raise UsageError(f"{there} is there already; --resume goes on with it, or name another file")
        if there is not None and there != self._journal:
            _replace(self._journal, read_parquet(self.path))
        if there is not None:
            self._take_up()
        return os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _unlock(self) -> None:
        """Let other runs have the table."""
        with contextlib.suppress(OSError):
            os.unlink(self._journal + LOCK)
        os.close(self._lock)

    def _take_up(self) -> None:
        """Read what an earlier run has written, and cut away what cannot be read."""
        self.resumed = True
        end = good = 0
        for begin, end, group in _spans(self._journal):
            if group is None:
                self.dropped += 1
                continue
            good += end - begin
            row = group[-1]
            key = _number(row["target"])
            if key in self._earlier:
                self._again.add(key)
            redo = row["status"] == "error"
            told = (row.get("mark"), row.get("version"), row.get("options"))
            self._earlier[key] = 0 if redo else _number(told)
        if good != os.path.getsize(self._journal):
            if not self._earlier and not next(read_lines(self._journal)).startswith(b'{"row":'):
                raise TargetError(f"{self._journal} is no table of a fleet, and is left as it is", self._journal)
            _replace(self._journal, _groups(self._journal))

    def _drop_older(self) -> None:
        last = {
            key: end
            for _, end, group in _spans(self._journal)
            if group and (key := _number(group[-1]["target"])) in self._again
        }
        kept = (
            group
            for _, end, group in _spans(self._journal)
            if group and last.get(_number(group[-1]["target"]), end) == end
        )
        _replace(self._journal, kept)


def _locked(path: str) -> int:
    """Return a descriptor that locks a table against other runs; the system unlocks that of a run that was killed."""
    while True:
        try:
            lock = os.open(path + LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise TargetError(f"{path}{LOCK} cannot be made: {error.strerror or error}", path) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UsageError(f"{path} is being written by another run of tiecheck fleet") from None
        except OSError:  # a file system without locks
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path + LOCK)):
                return lock
        os.close(lock)  # the run that held it has just ended, and took the file away


def read_row_groups(path: str) -> Iterator[Group]:
    """Give the rows of a table that was written before, model by model; a `TargetError` where it is none."""
    try:
        if path.endswith(".parquet"):
            need_pyarrow()
            yield from read_parquet(path)
        else:
            for _, _, group in _spans(path):
                if group is None:
                    raise TargetError(f"{path} is no table of a fleet, or broken; `fleet --resume` repairs it", path)
                yield group
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror or error}", path) from error


def _groups(path: str) -> Iterator[Group]:
    return (group for _, _, group in _spans(path) if group is not None)


def _spans(path: str) -> Iterator[tuple[int, int, Group | None]]:
    """Give the rows of each model with where they begin and end in the file; None for lines that belong to none."""
    begin = at = 0
    waiting: Group = []
    for line in read_lines(path):
        at += len(line)
        row = _row(line)
        if row is not None and row["row"] == "finding":
            waiting.append(row)
            continue
        whole = row is not None and row.get("findings") == len(waiting)
        whole = whole and all(found["target"] == row["target"] for found in waiting)  # type: ignore[index]
        if row is not None and not whole and waiting and row.get("findings") == 0:
            yield begin, at - len(line), None  # findings whose model's row was lost
            begin, waiting, whole = at - len(line), [], True
        yield begin, at, [*waiting, row] if whole and row is not None else None
        begin, waiting = at, []
    if at > begin:
        yield begin, at, None


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if sound_row(row) and line.endswith(b"\n") else None  # a turned bit may leave JSON that is no row


def _replace(path: str, groups: Iterable[Group]) -> None:
    with _whole(path) as new, open(new, "wb") as file:
        file.writelines(map(row_lines, groups))


@contextlib.contextmanager
def _whole(path: str) -> Iterator[str]:
    """Give the name under which a file is written anew; it takes the place of the old one when it is whole."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a run that was killed, or a link that somebody put there
    try:
        yield new
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _number(value: object) -> int:
    """Return 64 bits that stand for a value: a million rows of an earlier run take some 100 MB so."""
    return int(value_digest(value), 16)


def compare_tables(before: str, after: str) -> FleetComparison:
    """Compare two tables by the verdict and the rules of each model. Holds the older one's verdicts in memory.

    Raises:
        TiecheckError: One of them cannot be read.
    """
    verdicts: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}
    old: dict[str, tuple[str, tuple[str, ...]] | None] = {}
    for *_, row in read_row_groups(before):
        verdict = row["status"], tuple(row["codes"])
        old[row["target"]] = verdicts.setdefault(verdict, verdict)  # few verdicts, many models
    new: list[str] = []
    changed: list[FleetChange] = []
    same = 0
    for *_, row in read_row_groups(after):
        target, status, codes = row["target"], row["status"], tuple(row["codes"])
        was = old.get(target, ())
        old[target] = None  # a model that two sources gave has two rows
        if was == ():
            new.append(target)
        elif was == (status, codes):
            same += 1
        elif was:
            appeared, ended = sorted({*codes} - {*was[1]}), sorted({*was[1]} - {*codes})
            changed.append(FleetChange(target, was[0], status, tuple(appeared), tuple(ended)))
    changed.sort(key=lambda change: (change.after != "fail", change.before == "fail", change.target))
    gone = sorted(target for target, was in old.items() if was)
    equal = not (gone or new or changed)
    return FleetComparison(before, after, same, tuple(changed), tuple(sorted(new)), tuple(gone), equal)
