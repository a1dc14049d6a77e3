"""Verdicts kept between runs: a directory that nothing has touched is told again what it was told before.

A line of the file holds the verdict of one directory, by what was typed, the options, the working directory, and the
identity of every file and folder in it: mode, device, inode, size, and the times of its last write and change. Whatever
is read of a directory lies in it, else its verdict is not kept. Two directories that are alike are two lines: nothing
that hangs on bytes is told of one because the other has the same headers. A file of another build of tiecheck is
dropped whole, and what is damaged, or not the user's own, is as if it were not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from operator import itemgetter
from stat import S_ISLNK
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck._version import __version__
from tiecheck.records.edits import Edit, Step
from tiecheck.records.loaders import LoaderOutcome
from tiecheck.records.report import Finding, Location, Skip, TargetReport, TieEntry

if TYPE_CHECKING:
    from tiecheck.config.options import Config
    from tiecheck.files.limits import Account

LIMIT = 32 * 1024 * 1024
"""Bytes of the file; some 20,000 verdicts, the latest of which stay."""

ENTRIES = 10_000
"""Entries of a directory whose verdict is kept."""

RECENT = 2_000_000_000
"""Nanoseconds within which a second write may leave the time of the first (FAT counts in two seconds)."""

HEAD = "tiecheck-verdicts/2"
DIGITS = 32
"""Hexadecimal digits of each of the three hashes that begin a line: of the rest, of the key, of the files."""

PARTS: dict[tuple[type, str], type] = {
    (TargetReport, "ties"): TieEntry,
    (TargetReport, "loaders"): LoaderOutcome,
    (TargetReport, "findings"): Finding,
    (TargetReport, "skips"): Skip,
    (Finding, "locations"): Location,
    (Finding, "edits"): Edit,
    (Edit, "steps"): Step,
}
"""Record and field -> the record of which that field holds several."""

ALIKE = ("ties", "loaders", "layers", "rules_run")
"""Fields that many reports have in common: each is a text of its own at the end of a line, and is read once a run."""

ELSEWHERE = ("aliases", "views", "errors", "remote", "counts", "placement", "scale", "uses")
"""Fields of a report that are empty where it came of the files of one directory, and of nothing else."""


class Looked(NamedTuple):
    """A directory as it was found."""

    folder: str
    key: str
    marks: str
    report: TargetReport | None
    """The verdict that was kept; None where none was."""


class VerdictCache:
    """The verdicts of one file, for one run and its options."""

    def __init__(self, config: Config) -> None:
        """Read the file, where there is one."""
        self._path = cache_path()
        self._build = f"{HEAD} {_build()}\n".encode()
        self._asked = _hash(config, os.getcwd())
        self._lines = dict(_read_lines(self._path, self._build)) if self._path else {}
        self._used: dict[str, bytes] = {}
        self._changed = False

    def look_at(self, folder: str) -> Looked | None:
        """Look at a directory, and for its verdict; None for anything else."""
        try:
            marks, _ = _identity(folder)
        except (OSError, ValueError):
            return None
        key = _hash(self._asked, folder)
        line = self._lines.get(key)
        report = None
        if line is not None and line[2 * DIGITS : 3 * DIGITS] == marks.encode():
            report = _read_report(line)
        if line is not None and report is not None:
            self._used[key] = line
        return Looked(folder, key, marks, report)

    def keep(self, looked: Looked, account: Account, report: TargetReport) -> None:
        """Keep the verdict of a directory, where it can hang on nothing but what was looked at."""
        if report.type != "checkpoint" or any(getattr(report, field) for field in ELSEWHERE):
            return
        inside = {looked.folder.rstrip(os.sep), os.path.abspath(looked.folder)}
        if not inside.issuperset(map(os.path.dirname, account.files)):
            return
        try:
            marks, latest = _identity(looked.folder)
            parts = [
                report._replace(ties=(), loaders=(), layers=(), rules_run=()),
                *(getattr(report, field) for field in ALIKE),
            ]
            text = "\0".join(map(json.dumps, parts)).encode()
        except (OSError, TypeError, ValueError):
            return
        if marks != looked.marks or latest > time.time_ns() - RECENT:
            return
        rest = f"{looked.key}{marks}".encode() + text
        self._used[looked.key] = _hash_bytes(rest).encode() + rest
        self._changed = True

    def close(self) -> None:
        """Write the file anew, where there is something new; a place that takes none is no matter."""
        if not self._changed or self._path is None:
            return
        lines, size = [self._build], len(self._build)
        for line in ({**self._used, **{k: v for k, v in self._lines.items() if k not in self._used}}).values():
            size += len(line) + 1
            if size > LIMIT:
                break
            lines.append(line + b"\n")
        partial = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.writelines(lines)
                os.replace(partial, self._path)
            except OSError:
                os.unlink(partial)


def open_cache(config: Config) -> VerdictCache | None:
    """Open the cache for a run; None where its verdicts hang on more than the files of a directory.

    Args:
        config: The options; a model that is built, loaded or fetched is judged each time.
    """
    if not config.cache or config.wants_live or config.wants_rehearsal or config.ties or config.drafts_for:
        return None
    if config.baseline or config.base:  # files of their own
        return None
    try:
        return VerdictCache(config)
    except OSError:  # the working directory is gone
        return None


def cache_path() -> str | None:
    """Return the file of the verdicts, in the user's cache; None where the user has no place for one."""
    home = os.path.expanduser("~")
    root = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if os.path.isdir(home) else "")
    return os.path.join(root, "tiecheck", "verdicts") if os.path.isabs(root) else None


def _read_lines(path: str, build: bytes) -> Iterable[tuple[str, bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_size > LIMIT or not _is_own(status):
                return
            if file.readline(len(build)) != build:
                return
            lines = file.read(LIMIT).split(b"\n")
    except OSError:
        return
    for line in lines:
        yield line[DIGITS : 2 * DIGITS].decode("ascii", "replace"), line


def _is_own(status: os.stat_result) -> bool:
    """Tell whether a file is the user's, and nobody else may write to it."""
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _read_report(line: bytes) -> TargetReport | None:
    """Return the report of a line; None where the line is damaged."""
    if _hash_bytes(line[DIGITS:]).encode() != line[:DIGITS]:
        return None
    try:
        text, *alike = line[3 * DIGITS :].split(b"\0")
        fields = {field: _shared_records(field, part) for field, part in zip(ALIKE, alike, strict=True)}
        report: TargetReport = _record(TargetReport, json.loads(text.decode()))._replace(**fields)
    except (ValueError, TypeError, RecursionError):
        return None
    return report


def _record(kind: Any, values: list[Any]) -> Any:
    """Return a record whose values were lists, records that it holds included."""
    parts = _parts(kind)
    if len(values) != len(parts):
        raise ValueError
    for i, value in enumerate(values):
        if value.__class__ is list:
            part = parts[i]
            values[i] = tuple([_record(part, one) if part else _frozen(one) for one in value]) if value else ()
    return kind(*values)


@lru_cache
def _parts(kind: Any) -> tuple[type | None, ...]:
    """Return, field by field, the record of which that field holds several."""
    return tuple(PARTS.get((kind, field)) for field in kind._fields)


@lru_cache(1024)
def _shared_records(field: str, text: bytes) -> tuple[Any, ...]:
    """Return the records of a field that many reports have in common."""
    part, values = PARTS.get((TargetReport, field)), json.loads(text)
    return tuple(_record(part, one) for one in values) if part else tuple(values)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _identity(folder: str) -> tuple[str, int]:
    """Return the hash of all that tells whether anything in a folder was touched, and when that was last.

    Raises:
        OSError: It is no folder, or cannot be listed.
        ValueError: It has more than `ENTRIES` entries.
    """
    found: list[tuple[object, ...]] = []
    latest = 0
    linked = False
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            found.append((entry.name, *_marks(status)))
            latest = max(latest, status.st_mtime_ns, status.st_ctime_ns)
            if S_ISLNK(status.st_mode):
                linked = True
                beyond = os.stat(entry.path)
                found.append((entry.name, os.path.realpath(entry.path), *_marks(beyond)))
                latest = max(latest, beyond.st_mtime_ns, beyond.st_ctime_ns)
            if len(found) > ENTRIES:
                raise ValueError
    found.sort(key=itemgetter(0))
    return _hash(found, os.path.realpath(folder) if linked else ""), latest


def _marks(status: os.stat_result) -> tuple[int, ...]:
    return (*(status.st_mode, status.st_dev, status.st_ino, status.st_size), *(status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(1)
def _build() -> str:
    """Return the hash of this build: its version, Python's, and the size and time of every file of the package.

    An installation that is worked on keeps its version while rules and tables change. Without numpy less is compared.
    """
    found = []
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders += [] if entry.name == "__pycache__" else [entry.path]
                else:
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
    return _hash(__version__, sys.version, find_spec("numpy") is not None, sorted(found))


def _hash(*parts: object) -> str:
    return _hash_bytes(repr(parts).encode("utf-8", "surrogatepass"))


def _hash_bytes(raw: bytes) -> str:
    return blake2b(raw, digest_size=DIGITS // 2).hexdigest()
