"""Are the stored members of a group equal? Byte by byte, in bounded memory, and as early as it can be told.

Sixty-four sampled blocks find almost every difference at once; only equality needs the whole of it. `pread`
and no map: a file that is truncated under a map kills the process. Where the members differ, the rows that do
are counted, since "only the added tokens' rows" is another story than "all of them".
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tiecheck.collect.files import inside, open_regular
from tiecheck.facts import Checkpoint, Comparison, StoredTensor, Unknown

BLOCK = 256 * 1024
"""Bytes read at a time from each member."""

SAMPLES = 64
SAMPLE = 4096
"""How many blocks are looked at first, and their bytes."""

EXACT = 8 * BLOCK
"""Bytes of a member up to which differing rows are always counted; beyond it, tensors that differ in every sample
and in every row of the first block are not read any further."""

BYTE_BUDGET = 1 << 30
ROW_BUDGET = 1 << 20
"""Bytes from the first difference on, and rows of blocks that differ, that are looked at to count rows; beyond
either the count is "of the first so many rows"."""


class _Span(NamedTuple):
    """One member's bytes in an open file."""

    fd: int
    start: int


class Piece(NamedTuple):
    """Some whole rows, or a part of one row that is longer than a block."""

    row: int
    """The first row."""
    rows: int
    """How many; 1 for a part of a row."""
    offset: int
    """Where it begins, in bytes from the tensor's beginning."""
    nbytes: int
    """Its bytes."""


def compare(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool = False) -> Comparison | Unknown:
    """Hold the bytes of some stored tensors of one dtype and shape against each other.

    Equality of bytes is stricter than `torch.equal` for +0 and -0, and looser for NaN.

    Args:
        checkpoint: Where they are stored.
        tensors: Two or more, alike in dtype and shape.
        exact: Whether to count every row that differs, however long that takes.

    Returns:
        The comparison, or why it could not be made (a file that changed or cannot be read).

    Raises:
        TargetError: A file is not there any more, or is no regular file now.
    """
    if checkpoint.format == "pickle":
        from tiecheck.collect.pickles import compare_pickled

        return compare_pickled(checkpoint, tensors, exact=exact)
    fds: dict[str, int] = {}
    try:
        spans = []
        for tensor in tensors:
            if tensor.file not in fds:
                path = inside(checkpoint.root, tensor.file)
                fds[tensor.file] = open_regular(path, path)
            spans.append(_Span(fds[tensor.file], tensor.start or 0))
        return _compare_spans(spans, tensors[0], exact=exact)
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")
    finally:
        for fd in fds.values():
            os.close(fd)


def _compare_spans(spans: list[_Span], tensor: StoredTensor, *, exact: bool) -> Comparison:
    """Samples first; then the whole of it, or less where they differ everywhere."""
    nbytes = tensor.nbytes
    everywhere = nbytes > EXACT and all(
        not _alike(spans, offset, min(SAMPLE, nbytes - offset)) for offset in _sample_offsets(nbytes)
    )
    return compare_pieces(
        tensor.shape,
        nbytes,
        lambda piece: [_read(span, piece.offset, piece.nbytes) for span in spans],
        everywhere=everywhere,
        exact=exact,
    )


def compare_pieces(
    shape: tuple[int, ...], nbytes: int, read: Callable[[Piece], list[bytes]], *, everywhere: bool, exact: bool
) -> Comparison:
    """Compare members piece by piece.

    Args:
        shape: Their shape.
        nbytes: Bytes of each.
        read: Gives the bytes of one piece, of each member.
        everywhere: Whether they seem to differ everywhere, so that one block is enough to say so.
        exact: Whether to go on to the end all the same.
    """
    rows = shape[0] if shape else 1
    by_rows = rows > 0 and nbytes % rows == 0
    width = max(1, nbytes // rows if by_rows else nbytes)
    constant = Constancy(nbytes, shape)
    tally = Tally(width)
    for piece in pieces(nbytes, width):
        if piece.row == tally.last:  # of this long row it is known that it differs
            continue
        if not exact and tally.enough(piece, everywhere=everywhere):
            break
        blocks = read(piece)
        if any(block != blocks[0] for block in blocks[1:]):
            tally.take(piece, blocks)
        elif tally.first is None:
            constant.take(blocks[0], piece.offset)
    if tally.first is None:
        return Comparison(True, rows, 0, rows, None, None, constant.holds)
    if not by_rows:
        return Comparison(False, rows, None, 0, None, None, False)
    compared = rows if tally.stopped is None else tally.stopped
    return Comparison(False, rows, tally.differ, compared, tally.first, tally.last, False)


class Tally:
    """Counts the rows in which some member differs from the first one."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.differ = 0
        self.first: int | None = None
        self.last: int | None = None
        self.stopped: int | None = None
        self._begin = 0
        self._looked = 0

    def enough(self, piece: Piece, *, everywhere: bool) -> bool:
        """Whether to stop before this piece; never within a row."""
        if self.first is None or piece.offset % self.width:
            return False
        all_differ = self.differ == piece.row
        if (everywhere and all_differ) or piece.offset - self._begin >= BYTE_BUDGET or self._looked >= ROW_BUDGET:
            self.stopped = piece.row
        return self.stopped is not None

    def take(self, piece: Piece, blocks: list[bytes]) -> None:
        """Count the rows of a piece in which not all members agree."""
        if self.first is None:
            self._begin = piece.offset
        if piece.rows == 1:
            self._add(piece.row)
            return
        self._looked += piece.rows
        for i in range(piece.rows):
            row = slice(i * self.width, (i + 1) * self.width)
            if any(block[row] != blocks[0][row] for block in blocks[1:]):
                self._add(piece.row + i)

    def _add(self, row: int) -> None:
        self.differ += 1
        self.first = row if self.first is None else self.first
        self.last = row


class Constancy:
    """Whether a tensor that comes block by block is one value, over and over."""

    def __init__(self, nbytes: int, shape: tuple[int, ...]) -> None:
        elements = math.prod(shape)
        self.holds = nbytes > 0
        # Whole bytes in which elements repeat: 4 for float32, 3 for four elements of six bits.
        self._period = nbytes // math.gcd(nbytes, elements) if nbytes else 1
        self._tile = b""

    def take(self, block: bytes, offset: int) -> None:
        """Look at the bytes at an offset; the first must be those at 0."""
        if not self.holds:
            return
        if not self._tile:
            self._tile = block[: self._period] * (BLOCK // self._period + 2)
        phase = offset % self._period
        self.holds = self._tile.startswith(block, phase)


def pieces(nbytes: int, width: int) -> Iterator[Piece]:
    """A tensor in pieces of a block at most: whole rows, or parts of one row."""
    if width <= BLOCK:
        step = BLOCK // width
        for row in range(0, nbytes // width, step):
            count = min(step, nbytes // width - row)
            yield Piece(row, count, row * width, count * width)
        return
    for row in range(nbytes // width):
        for offset in range(0, width, BLOCK):
            yield Piece(row, 1, row * width + offset, min(BLOCK, width - offset))


def _sample_offsets(nbytes: int) -> Iterator[int]:
    """Offsets spread evenly over a tensor, its beginning and its end among them."""
    last = max(0, nbytes - SAMPLE)
    for i in range(SAMPLES):
        yield last * i // (SAMPLES - 1)


def _read(span: _Span, offset: int, count: int) -> bytes:
    data = os.pread(span.fd, count, span.start + offset)
    if len(data) != count:
        message = "the file ends too early; was it changed meanwhile?"
        raise EOFError(message)
    return data


def _alike(spans: list[_Span], offset: int, count: int) -> bool:
    first = _read(spans[0], offset, count)
    return all(_read(span, offset, count) == first for span in spans[1:])
