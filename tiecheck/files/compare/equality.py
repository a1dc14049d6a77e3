"""Equality of the stored members of a group: byte by byte, in bounded memory, and as early as it can be told.

A few sampled blocks find almost every difference at once; only equality needs the whole of it, read once however many
members there are. Where the members differ, the rows that do are counted and measured, since "only the added tokens'
rows" is another story than "all of them".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tiecheck.files.compare.distance import DistanceMeter, RowBands, import_numpy, number_decoder
from tiecheck.files.compare.spans import OpaqueError, Span, StridedSpan, opened_members
from tiecheck.files.limits import COMPARED, byte_question, target_account
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor
from tiecheck.records.words import Unknown

BLOCK = 256 * 1024
"""Bytes looked at at a time in each member."""

BYTE_BUDGET = 1 << 30
ROW_BUDGET = 1 << 20
"""Bytes from the first difference on, and rows of blocks that differ, that are looked at to count rows; beyond
either the count is "of the first so many rows"."""

FIRST = 24
SAMPLE = 4096
"""Blocks that are looked at first, and their bytes: from a cold disk each takes some 30 microseconds. Members that
agree in one row of two are taken for different everywhere once in 16 million times, and then fewer rows are counted."""

EXACT = 8 * BLOCK
"""Bytes of a member up to which differing rows are always counted; beyond it, tensors that differ in every sample
and in every row of the first block are not read any further."""


class Piece(NamedTuple):
    """Some whole rows, or a part of one row that is longer than a block."""

    row: int
    """The first row."""
    rows: int
    """Their number; 1 for a part of a row."""
    offset: int
    """Where it begins, in bytes from the tensor's beginning."""
    nbytes: int
    """Its bytes."""


def tensor_pieces(nbytes: int, width: int, ahead: Callable[[int], int] = int) -> Iterator[Piece]:
    """Give a tensor in pieces of a block at most, whole rows or parts of one (`width` bytes).

    `ahead` gives the next byte that has to be looked at, from one on.
    """
    offset = 0
    while (offset := max(offset, ahead(offset))) < nbytes - nbytes % width:
        row, within = divmod(offset, width)
        if width <= BLOCK:
            count = min(BLOCK // width, nbytes // width - row)
            yield Piece(row, count, row * width, count * width)
            offset = (row + count) * width
        else:
            begin = within - within % BLOCK
            count = min(BLOCK, width - begin)
            yield Piece(row, 1, row * width + begin, count)
            offset = row * width + begin + count


class RowTally:
    """Counts the rows in which some member differs from the first one."""

    def __init__(self, width: int, bands: RowBands) -> None:
        self.width = width
        self.bands = bands
        self.differ = 0
        self.first: int | None = None
        self.last: int | None = None
        self.stopped: int | None = None
        self._begin = 0
        self._looked = 0

    def enough(self, piece: Piece, *, everywhere: bool) -> bool:
        """Return True to stop before this piece; never within a row."""
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

    def counted(self, found: Comparison, measured: int) -> Comparison:
        """Return a comparison with the rows that were counted, and how many of them were measured."""
        return found._replace(
            rows_differ=self.differ,
            rows_compared=found.rows if self.stopped is None else self.stopped,
            first_row=self.first,
            last_row=self.last,
            rows_measured=measured,
            bands=self.bands.marks(found.rows if self.stopped is None else self.stopped),
        )

    def _add(self, row: int) -> None:
        self.differ += 1
        self.bands.add(row)
        self.first = row if self.first is None else self.first
        self.last = row


class Constancy:
    """Tells of a tensor that comes block by block if it is one value, over and over."""

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

    def take_hole(self, offset: int) -> None:
        """Look at zeros that begin at an offset: those of a hole, of whatever size."""
        self.take(bytes(self._period), offset)


@byte_question
def compare_bytes(
    checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool = False
) -> Comparison | Unknown:
    """Hold the bytes of some stored tensors of one dtype and shape against each other; or say why that failed.

    Equality of bytes is stricter than `torch.equal` for +0 and -0, and looser for NaN. `exact` counts and measures
    every row that differs, however long that takes. A file that is not there any more is a `TargetError`.
    """
    if exact:
        target_account().lift(COMPARED)
    try:
        with opened_members(checkpoint, tensors) as spans:
            return compare_opened(spans, tensors[0], exact=exact)
    except OpaqueError as error:
        return Unknown(str(error))
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")


def compare_opened(spans: list[Span], tensor: StoredTensor, *, exact: bool) -> Comparison:
    """Look at samples first; then at the whole of it, or less where the members differ everywhere."""
    nbytes = tensor.nbytes
    distinct = list({span.place: span for span in spans}.values())  # shards may be links to one file
    if len(distinct) == 1 and nbytes:
        distinct[0].read(nbytes - 1, 1)
    # To put samples of a strided member together takes as long as some of the whole does.
    sampled = nbytes > EXACT and not any(isinstance(span, StridedSpan) for span in distinct)
    everywhere = sampled and not _alike_somewhere(distinct)
    return compare_spans(distinct, tensor.shape, tensor.dtype, everywhere=everywhere, exact=exact)


def compare_spans(
    spans: Sequence[Span], shape: tuple[int, ...], dtype: str, *, everywhere: bool, exact: bool
) -> Comparison:
    """Compare members (one alone where all are the same bytes) piece by piece, all of them in one pass.

    Where they seem to differ `everywhere`, one block is enough to say so; `exact` goes on to the end all the same. A
    file that has become too short is an `EOFError`.
    """
    nbytes = spans[0].nbytes
    rows = shape[0] if shape else 1
    by_rows = rows > 0 and nbytes % rows == 0
    width = max(1, nbytes // rows if by_rows else nbytes)
    constant = Constancy(nbytes, shape)
    tally = RowTally(width, RowBands(max(1, rows)))
    gauge = None
    nan = False
    numpy = _numpy_for(nbytes) if len(spans) > 1 else None
    for piece in tensor_pieces(nbytes, width, _past_holes(spans, constant)):
        if not exact and tally.enough(piece, everywhere=everywhere):
            break
        if piece.row == tally.last:  # of this long row it is known that it differs
            continue
        blocks = [span.read(piece.offset, piece.nbytes) for span in spans]
        if any(block != blocks[0] for block in blocks[1:]):
            if gauge is None:
                gauge = DistanceMeter(dtype, tally.bands, exact=exact, thorough=exact or not everywhere)
            gauge.take(blocks, tally.take(piece, blocks), (piece.row, width), whole=piece.nbytes == piece.rows * width)
        elif tally.first is None:
            constant.take(blocks[0], piece.offset)
            nan = nan or (len(blocks) > 1 and _holds_nan(blocks[0], dtype, numpy))
            if len(blocks) == 1 and not constant.holds:
                break
    if gauge is None:
        return Comparison(True, rows, 0, rows, None, None, constant.holds, nan=nan)
    largest, measured, nonfinite = gauge.distance
    found = Comparison(False, rows, None, 0, None, None, False, max_difference=largest, nonfinite=nonfinite)
    return tally.counted(found, measured) if by_rows else found


_WIDE, _HALF, _ZERO = (0x7F, 0xFF), (*range(0x7C, 0x80), *range(0xFC, 0x100)), (0x80,)
_TOPS = {"float64": (8, _WIDE), "float32": (4, _WIDE), "bfloat16": (2, _WIDE), "float16": (2, _HALF)} | {
    "float8_e4m3fn": (1, _WIDE),
    "float8_e5m2": (1, _HALF),
    "float8_e4m3fnuz": (1, _ZERO),
    "float8_e5m2fnuz": (1, _ZERO),
}
"""dtype -> bytes of an element, and the values that its last one has in a NaN, among others."""

_INFINITY = {"float64": 0x7FF0 << 48, "float32": 0x7F80 << 16, "bfloat16": 0x7F80, "float16": 0x7C00}
"""dtype -> the bits of infinity; those of a NaN, its sign apart, are more."""

MANY = 1 << 28
"""Bytes of a member from which numpy, ten times as fast at a look for NaN, earns back its import."""


def _numpy_for(nbytes: int) -> Any:
    if nbytes < MANY:
        return None
    return import_numpy()


def _holds_nan(block: bytes, dtype: str, numpy: Any = None) -> bool:
    """Tell whether whole elements hold a NaN: they are decoded only where a highest byte can be one's."""
    if dtype not in _TOPS:
        return False
    size, odd = _TOPS[dtype]
    if numpy is not None and block and dtype in _INFINITY:
        infinity, sign = _INFINITY[dtype], 1 << (8 * size - 1)  # as numbers, what is beyond the infinities is a NaN
        positive, negative = (numpy.frombuffer(block, f"<{kind}{size}").max() for kind in "iu")
        return bool(positive > infinity or negative > sign | infinity)
    tops = block[size - 1 :: size]
    if not any(bytes((top,)) in tops for top in odd):
        return False
    decode = number_decoder(dtype)
    return decode is not None and any(value != value for value in decode(block))  # noqa: PLR0124  # NaN alone


def _past_holes(spans: Sequence[Span], constant: Constancy) -> Callable[[int], int]:
    """Return what gives the next byte that is in no hole of all members, whose zeros are alike."""
    if not all(span.sparse for span in spans):
        return int

    def ahead(offset: int) -> int:
        found = min(span.data_from(offset) for span in spans)
        if found > offset:
            constant.take_hole(offset)
        return found

    return ahead


def sample_offsets(nbytes: int) -> Iterator[int]:
    """Give offsets spread evenly over a tensor, its beginning and its end among them."""
    last = max(0, nbytes - SAMPLE)
    for i in range(FIRST):
        yield last * i // (FIRST - 1)


def _alike_somewhere(spans: list[Span]) -> bool:
    """Return True where the members agree in one of the samples."""
    nbytes = spans[0].nbytes
    for offset in sample_offsets(nbytes):
        count = min(SAMPLE, nbytes - offset)
        first = spans[0].read(offset, count)
        if all(span.read(offset, count) == first for span in spans[1:]):
            return True
    return False
