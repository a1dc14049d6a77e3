"""Limits on what one target may take, each with its reason, and the account of what it has taken so far.

A limit is many times what an honest model needs, and keeps a hostile one to some seconds and 512 MiB. Past it the
target, or the file beside it, is refused in one sentence.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from tiecheck.errors import OutOfTimeError, TargetError
from tiecheck.records.record import Record

if TYPE_CHECKING:
    from tiecheck.records.report import Traffic
    from tiecheck.records.stored import Checkpoint

P = ParamSpec("P")
T = TypeVar("T")

JSON_BYTES = 192 * 1024 * 1024
"""Bytes of an index; that of a million tensors has some 130 MB."""

CONFIG_BYTES = 32 * 1024 * 1024
"""Bytes of a config; a label for each of 100,000 classes takes some 5 MB."""

HEADER_BYTES = 100_000_000
"""Bytes of the largest safetensors header that safetensors itself reads (`MAX_HEADER_SIZE`)."""

COUNTED_FROM = 1024 * 1024
"""Bytes of JSON from which its values are counted, and not estimated: that takes a third of a second a gigabyte."""

PICKLE_BYTES = 64 * 1024 * 1024
"""Bytes of one pickle, inflated; 100,000 tensors take some 20 MB."""

ZIP_DIRECTORY_BYTES = 16 * 1024 * 1024
"""Bytes of a zip archive's directory, in which an entry takes 46 at least, and 700 in memory: 350,000 entries. A
storage of `torch.save` is one, and takes some 75."""

SHARDS = 20_000
"""Distinct files of one checkpoint; the largest that is known has some hundreds."""

REQUESTS = 20_000
"""Requests of one remote target: two a shard, and those that are tried again."""

ANSWER_SECONDS = 15.0
SLOWEST = 64 * 1024
"""Seconds of one answer of a server, headers included, and one more for every 64 KiB that came: a slow line has them,
and a server which drips cannot keep us."""

WAIT_SECONDS = 15.0
"""Seconds that a busy server may have one request wait, all its tries together."""


HELD = 16
"""Weights of a directory that are held open at once."""


class Limit(Record):
    """The most that a whole target may take of something."""

    most: int
    what: str
    """The thing that is counted, as in "more than 5 ..."."""


OPERATIONS = Limit(5_000_000, "operations in its pickles")
"""A state dict of 100,000 tensors has some 3 million; five million take some five seconds."""

PICKLED = Limit(320 * 1024 * 1024, "bytes of memory for what its pickles make")
"""Text and containers, counted as they are made and not when they go: 100,000 tensors take some 200 MB."""

READ = Limit(512 * 1024 * 1024, "bytes of headers, pickles and configs")
"""Twice what a million tensors need."""

VALUES = Limit(10_000_000, "values in its headers and configs")
"""By commas and brackets, a brace for three, since a small object takes 230 bytes of memory and 8 of text. What is
parsed with types counts four an entry of a header and two a name of an index: six million for a million tensors in
shards, which take 300 MB of memory. So 1.6 million are read, and half as many again would break the 512 MiB."""

FIELDS = Limit(2_000_000, "fields in its graphs")
"""Of ONNX files, a field at a time; an export of 30,000 nodes has some 900,000, and two million take three seconds."""

COMPARED = Limit(64 * 1024 * 1024 * 1024, "bytes of tensors to be compared")
"""A minute from a fast disk; the largest embedding with its head has some 8 GiB. `--values always` has none."""


class ByteQuestion(Record):
    """A question that was asked."""

    ask: Callable[..., Any]
    """The function; its first argument is the checkpoint."""
    args: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    answer: Any


class Account:
    """The seconds that one target may still take, and what it has taken of each limit."""

    def __init__(self, seconds: float = 0) -> None:
        """Begin now; 0 seconds for no end."""
        self.seconds = seconds
        self._end = time.monotonic() + seconds if seconds else inf
        self._taken: dict[str, int] = {}
        self.files: dict[str, tuple[int, ...]] = {}
        """Every file that was opened -> what tells whether it is still the same."""
        self.opened: list[str] = []
        """Files that were opened, but for those of `questions`."""
        self.questions: list[ByteQuestion] = []
        """Questions that were asked of the bytes of tensors, with their answers (`byte_question`)."""
        self.answered: list[tuple[str, ByteQuestion, Any]] = []
        """Those of before the check: root of the checkpoint, question, and answer, which is not asked for again."""
        self.parts: dict[Hashable, tuple[Any, bool]] | None = None
        """Parts of the check that were made of directories which are alike (`made_once`); None of the first."""
        self.asking = False
        """True while one of them is answered."""
        self.traffic: list[Callable[[], Traffic]] = []
        """Each gives the bytes and requests of one store so far."""
        self.listed: tuple[str, frozenset[str] | bool] = ("", False)
        """The target, and the names in it, if a list of many had them a moment ago."""
        self.held: dict[str, int] | None = None
        """Path -> descriptor of the weights whose headers were read, a few; None where they are closed at once."""

    def names_of(self, target: str) -> frozenset[str] | None:
        """Return the names in the target, where it was listed with others; None of any other."""
        known, names = self.listed
        return names if known == target and isinstance(names, frozenset) else None

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def check_time(self) -> None:
        """Raise `OutOfTimeError` where no second is left."""
        if time.monotonic() > self._end:
            raise OutOfTimeError

    def take(self, limit: Limit, count: int, path: str) -> None:
        """Take some of a limit that holds for the whole target.

        Beyond what is left it is a `TargetError`, with the path; where no second is left an `OutOfTimeError`.
        """
        if time.monotonic() > self._end:
            raise OutOfTimeError
        taken = self._taken[limit.what] = self._taken.get(limit.what, 0) + count
        if taken > limit.most:
            raise TargetError(f"{path} is not read: with it the target has more than {limit.most:,} {limit.what}", path)

    def lift(self, limit: Limit) -> None:
        """Let the target take of a limit as much as it wants."""
        self._taken[limit.what] = -sys.maxsize

    def note_file(self, path: str, status: os.stat_result) -> None:
        """Remember a file as it was when it was opened; one that was opened before has to be the same."""
        if not self.asking:
            self.opened.append(path)
        marks = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self.files.setdefault(path, marks) != marks:
            raise TargetError(f"{path} changed while it was read", path)

    def check_files(self) -> None:
        """Check that every file which was opened is still the same: not gone, replaced, or written to."""
        for path, marks in self.files.items():
            try:
                status = os.stat(path)
                same = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) == marks
            except OSError:
                same = False
            if not same:
                raise TargetError(f"{path} changed while it was read", path)

    def close(self, path: str, descriptor: int) -> None:
        """Close some weights, or hold them open for the questions that come."""
        if self.held is None or len(self.held) >= HELD:
            os.close(descriptor)
        else:
            self.held[path] = descriptor


current: ContextVar[Account | None] = ContextVar("account", default=None)
"""The account of the target that is being read; None outside of one."""


def target_account() -> Account:
    """Return the account of the target that is being read, or one without an end that nobody else has."""
    return current.get() or Account()


def take_values(raw: bytes, label: str) -> None:
    """Take the values of a JSON text off the account before json makes objects of them; of a short text estimated."""
    count = len(raw) // 20  # an entry of 108 bytes has five commas
    if len(raw) > COUNTED_FROM:
        count = raw.count(b",") + raw.count(b"[") + 3 * raw.count(b"{")
    target_account().take(VALUES, count, label)


def byte_question(ask: Callable[Concatenate[Checkpoint, P], T]) -> Callable[Concatenate[Checkpoint, P], T]:
    """Mark a function whose answer follows from its arguments and from bytes of the checkpoint's files alone.

    What a verdict hangs on beside names, config and headers is noted in the account of its target, so that it can be
    asked of another directory that is alike in all else.
    """

    @wraps(ask)
    def asked(checkpoint: Checkpoint, *args: P.args, **named: P.kwargs) -> T:
        taken = current.get()
        if taken is None or taken.asking:
            return ask(checkpoint, *args, **named)
        taken.asking = True
        answer: Any = object()  # of a question that raises: no other answer is this one
        this = (checkpoint.root, ask, args, tuple(named.items()))
        try:
            before = [told for root, one, told in taken.answered if (root, one.ask, one.args, one.named) == this]
            answer = before[0] if before else ask(checkpoint, *args, **named)
        finally:
            taken.asking = False
            taken.questions.append(ByteQuestion(*this[1:], answer))
        return answer  # type: ignore[no-any-return]

    return asked  # type: ignore[return-value]  # the first argument has no name to a type checker


def made_once(name: Hashable, make: Callable[[], T]) -> T:
    """Return what follows from names, config and headers alone: of directories that are alike in them it is made twice.

    As a verdict it is used once two have had it. Where a file was opened or bytes were asked for, it is made for each.
    """
    account = target_account()
    before = account.parts.get(name) if account.parts is not None else None
    if before is not None and before[1]:
        return before[0]  # type: ignore[no-any-return]
    seen = len(account.opened), len(account.questions)
    made = make()
    if account.parts is not None and seen == (len(account.opened), len(account.questions)):
        account.parts[name] = made, before is not None and before[0] == made
    return made
