"""Tensors piece by piece: which rows differ, whether all is one value, and when to stop looking."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 256 * 1024
"""Bytes looked at at a time in each member."""

BYTE_BUDGET = 1 << 30
ROW_BUDGET = 1 << 20
"""Bytes from the first difference on, and rows of blocks that differ, that are looked at to count rows; beyond
either the count is "of the first so many rows"."""


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

    def take(self, piece: Piece, blocks: list[bytes]) -> Iterator[slice]:
        """Count the rows of a piece in which not all members agree, and give where they lie in it."""
        if self.first is None:
            self._begin = piece.offset
        if piece.rows == 1:
            self._add(piece.row)
            yield slice(0, piece.nbytes)
            return
        self._looked += piece.rows
        for i in range(piece.rows):
            row = slice(i * self.width, (i + 1) * self.width)
            if any(block[row] != blocks[0][row] for block in blocks[1:]):
                self._add(piece.row + i)
                yield row

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
