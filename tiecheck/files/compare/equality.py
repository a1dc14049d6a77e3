"""Are the stored members of a group equal? Byte by byte, in bounded memory, and as early as it can be told.

A few sampled blocks find almost every difference at once; only equality needs the whole of it (`alike.py` says
how). Where the members differ, the rows that do are counted and measured, since "only the added tokens' rows" is
another story than "all of them".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from tiecheck.files.compare import chunks
from tiecheck.files.compare.chunks import Constancy, Piece, Tally
from tiecheck.files.local import inside, open_regular
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor
from tiecheck.records.words import Unknown

SAMPLES = 64
"""Places that are looked at to guess a form."""

FIRST = 24
SAMPLE = 4096
"""How many blocks are looked at first, and their bytes: from a cold disk each takes some 30 microseconds. Members that
agree in one row of two are taken for different everywhere once in 16 million times, and then fewer rows are counted."""

EXACT = 8 * chunks.BLOCK
"""Bytes of a member up to which differing rows are always counted; beyond it, tensors that differ in every sample
and in every row of the first block are not read any further."""

AHEAD = 8 * 1024 * 1024
"""Bytes of each member that the system is asked to fetch while the ones before are looked at."""

TRIAL = 4 * 1024 * 1024
QUICK = 400e6
"""Bytes of each member that are read without asking, and the bytes a second from which asking only costs: a disk that
gave so much by itself took 1.4 to 2 times as long with it (three runs over 1 GB, cold)."""

_SHORTER = "the file ends too early; was it changed meanwhile?"

_FADVISE = getattr(os, "posix_fadvise", None)
_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)


class Span:
    """One member's bytes in an open file."""

    def __init__(self, fd: int, start: int, nbytes: int) -> None:
        """The bytes of a file from `start` on; nothing is read yet."""
        self.nbytes = nbytes
        self.fd = fd
        self.start = start
        self._asked = 0
        self._began = 0.0
        self._quick: bool | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """What members have in common that are the same bytes on the disk: device, file, first byte."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino, self.start

    def read(self, offset: int, count: int) -> bytes:
        """Some bytes, counted from the member's beginning.

        Raises:
            EOFError: The file ends before them.
            OSError: They cannot be read.
        """
        data = os.pread(self.fd, count, self.start + offset)
        if len(data) != count:
            raise EOFError(_SHORTER)
        return data

    def read_on(self, offset: int, count: int) -> bytes:
        """The same for one who reads from the beginning to the end: what comes next is fetched meanwhile."""
        self._fetch(offset, count)
        return self.read(offset, count)

    def fill(self, offset: int, buffer: bytearray) -> None:
        """The same again into memory that is there: what is freed after each block may go back to the system."""
        self._fetch(offset, len(buffer))
        if os.preadv(self.fd, [buffer], self.start + offset) != len(buffer):
            raise EOFError(_SHORTER)

    def _fetch(self, offset: int, count: int) -> None:
        if self._quick is None:
            self._pace(offset)
        if self._quick is False and offset + count + AHEAD > self._asked < self.nbytes:
            ahead = min(AHEAD, self.nbytes - self._asked)
            if not self.in_memory(self._asked, ahead):
                self.ask(self._asked, ahead)
            self._asked += AHEAD

    def _pace(self, offset: int) -> None:
        """Find out whether the disk is quick by itself."""
        if not self._began:
            self._began = time.perf_counter()
        elif offset >= TRIAL:
            self._quick = offset > QUICK * (time.perf_counter() - self._began)
            self._asked = offset

    def in_memory(self, offset: int, count: int) -> bool:
        """Whether the last byte of some can be read without waiting: asking for what is there already costs a tenth."""
        if _NOWAIT is None:
            return False
        try:
            return os.preadv(self.fd, [bytearray(1)], self.start + offset + count - 1, _NOWAIT) == 1
        except OSError:  # it would have to wait, or the file system cannot tell
            return False

    def ask(self, offset: int, count: int) -> None:
        """Have the system fetch some bytes, without waiting for them."""
        if _FADVISE is not None:
            _FADVISE(self.fd, self.start + offset, count, os.POSIX_FADV_WILLNEED)


def compare(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool = False) -> Comparison | Unknown:
    """Hold the bytes of some stored tensors of one dtype and shape against each other.

    Equality of bytes is stricter than `torch.equal` for +0 and -0, and looser for NaN.

    Args:
        checkpoint: Where they are stored.
        tensors: Two or more, alike in dtype and shape.
        exact: Whether to count and measure every row that differs, however long that takes.

    Returns:
        The comparison, or why it could not be made (a file that changed or cannot be read).

    Raises:
        TargetError: A file is not there any more, or is no regular file now.
    """
    if checkpoint.format == "pickle":
        from tiecheck.files.pickle.torch_load import compare_pickled

        return compare_pickled(checkpoint, tensors, exact=exact)
    try:
        with opened(checkpoint, tensors) as spans:
            return _compare_spans(spans, tensors[0], exact=exact)
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")


@contextmanager
def opened(checkpoint: Checkpoint, tensors: Sequence[StoredTensor]) -> Iterator[list[Span]]:
    """The members of a safetensors checkpoint, in files opened for as long as the block takes.

    Raises:
        TargetError: A file is not there any more, or is no regular file now.
    """
    fds: dict[str, int] = {}
    try:
        for tensor in tensors:
            if tensor.file not in fds:
                path = inside(checkpoint.root, tensor.file)
                fds[tensor.file] = open_regular(path, path)
        yield [Span(fds[tensor.file], tensor.start or 0, tensor.nbytes) for tensor in tensors]
    finally:
        for fd in fds.values():
            os.close(fd)


def _compare_spans(spans: list[Span], tensor: StoredTensor, *, exact: bool) -> Comparison:
    """Samples first; then the whole of it, or less where they differ everywhere."""
    nbytes = tensor.nbytes
    distinct = list({span.place: span for span in spans}.values())  # shards may be links to one file
    if len(distinct) == 1 and nbytes:
        distinct[0].read(nbytes - 1, 1)
    everywhere = nbytes > EXACT and not _alike_somewhere(distinct)
    read = Span.read if everywhere and not exact else Span.read_on  # of what comes after one block nothing is wanted

    def blocks(piece: Piece) -> list[bytes]:
        return [read(span, piece.offset, piece.nbytes) for span in distinct]

    compared = partial(
        compare_pieces, tensor.shape, nbytes, blocks, dtype=tensor.dtype, everywhere=everywhere, exact=exact
    )
    if len(distinct) == 1 or (everywhere and not exact):
        return compared()
    from tiecheck.files.compare.mapped import MAPPED_FROM, Alike, leased

    with leased(sorted({span.fd for span in distinct}) if nbytes >= MAPPED_FROM else ()) as mapped:
        return compared(alike=Alike(distinct, mapped=mapped and nbytes >= MAPPED_FROM))


def compare_pieces(  # noqa: PLR0913  # what a tensor is made of
    shape: tuple[int, ...],
    nbytes: int,
    read: Callable[[Piece], list[bytes]],
    *,
    dtype: str,
    everywhere: bool,
    exact: bool,
    alike: Callable[[Piece], bool] = lambda _: False,
) -> Comparison:
    """Compare members piece by piece.

    Args:
        shape: Their shape.
        nbytes: Bytes of each.
        read: Gives the bytes of one piece, of each member; of one alone where all are the same bytes.
        dtype: torch's word for their elements.
        everywhere: Whether they seem to differ everywhere, so that one block is enough to say so.
        exact: Whether to go on to the end all the same.
        alike: Tells of a piece whether all members agree in it, faster than reading them does.
    """
    rows = shape[0] if shape else 1
    by_rows = rows > 0 and nbytes % rows == 0
    width = max(1, nbytes // rows if by_rows else nbytes)
    constant = Constancy(nbytes, shape)
    tally = Tally(width)
    gauge = None
    for piece in chunks.pieces(nbytes, width):
        if not exact and tally.enough(piece, everywhere=everywhere):
            break
        # Of this long row it is known that it differs; or they agree, and nothing else is asked of it.
        if piece.row == tally.last or (not constant.holds and alike(piece)):
            continue
        blocks: list[bytes] = []  # the last ones go first: twice as many do not fit into the processor's cache
        blocks = read(piece)
        if any(block != blocks[0] for block in blocks[1:]):
            if gauge is None:
                from tiecheck.files.compare.distance import Gauge

                gauge = Gauge(dtype, exact=exact, thorough=exact or not everywhere)
            gauge.take(blocks, tally.take(piece, blocks), whole=piece.nbytes == piece.rows * width)
        elif tally.first is None:
            constant.take(blocks[0], piece.offset)
            if len(blocks) == 1 and not constant.holds:
                break
    if gauge is None:
        return Comparison(True, rows, 0, rows, None, None, constant.holds)
    largest, measured, nonfinite = gauge.distance
    found = Comparison(False, rows, None, 0, None, None, False, max_difference=largest, nonfinite=nonfinite)
    if not by_rows:
        return found
    compared = rows if tally.stopped is None else tally.stopped
    return found._replace(
        rows_differ=tally.differ,
        rows_compared=compared,
        first_row=tally.first,
        last_row=tally.last,
        rows_measured=measured,
    )


def _sample_offsets(nbytes: int) -> Iterator[int]:
    """Offsets spread evenly over a tensor, its beginning and its end among them."""
    last = max(0, nbytes - SAMPLE)
    for i in range(FIRST):
        yield last * i // (FIRST - 1)


def _alike_somewhere(spans: list[Span]) -> bool:
    """Whether the members agree in one of the samples."""
    nbytes = spans[0].nbytes
    for span in spans:
        span.ask(0, chunks.BLOCK)  # which is read next
    for offset in _sample_offsets(nbytes):
        for span in spans:
            span.ask(offset, SAMPLE)
    for offset in _sample_offsets(nbytes):
        count = min(SAMPLE, nbytes - offset)
        first = spans[0].read(offset, count)
        if all(span.read(offset, count) == first for span in spans[1:]):
            return True
    return False
