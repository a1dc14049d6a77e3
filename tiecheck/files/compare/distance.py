"""Distance between the elements of two tensors: the largest absolute difference, safe for NaN.

A few elements are measured without numpy, which costs more to import than to do without; more of them by numpy,
where it is installed.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import sub
from typing import Any, NamedTuple

BANDS = 64
"""Bands at most; of a tensor of fewer rows each row is one."""


class RowBands:
    """The largest difference seen in each band, filled as rows are found and measured."""

    def __init__(self, rows: int) -> None:
        """Begin with no row that differs, of so many."""
        self._rows = rows
        self._count = min(BANDS, rows)
        self._found: dict[int, float | None] = {}
        self._last = -1

    def add(self, row: int) -> None:
        """Note a row that differs."""
        band = row * self._count // self._rows
        if band != self._last:
            self._last = band
            self._found.setdefault(band, None)

    def measure(self, first: int, last: int, largest: float | None) -> None:
        """Note the largest difference of some rows, for the bands among them in which rows differ."""
        for band in range(first * self._count // self._rows, last * self._count // self._rows + 1):
            if largest is not None and band in self._found:
                self._found[band] = max(self._found[band] or 0.0, largest)

    def marks(self, compared: int) -> str:
        """Return a mark a band, as `Comparison.bands` has them, where the first so many rows were compared."""
        top = max((value for value in self._found.values() if value is not None), default=0.0)
        seen = -(-compared * self._count // self._rows)
        return "".join(self._mark(band, top) if band < seen else " " for band in range(self._count))

    def _mark(self, band: int, top: float) -> str:
        if band not in self._found:
            return "."
        value = self._found[band]
        return "?" if value is None else str(max(1, math.ceil(9 * (value / (top or 1.0)))))


FEW = 32 * 1024
"""Bytes of a member that are measured without numpy."""

MEASURED = 16 * 1024 * 1024
"""Bytes of each member that are measured, unless all are asked for."""

CODES = {"float32": "f4", "float64": "f8", "float16": "f2", "uint8": "u1", "int8": "i1", "int16": "i2", "uint16": "u2",
         "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8"}  # fmt: skip
"""numpy's word for each dtype that it has."""

_FORMATS = {"f4": "f", "f8": "d", "f2": "e", "u1": "B", "i1": "b", "i2": "h", "u2": "H", "i4": "i", "u4": "I",
            "i8": "q", "u8": "Q"}  # fmt: skip

_EIGHT_BITS = {
    "float8_e4m3fn": (4, 7, "one"),
    "float8_e5m2": (5, 15, "ieee"),
    "float8_e4m3fnuz": (4, 8, "zero"),
    "float8_e5m2fnuz": (5, 16, "zero"),
}
"""Exponent bits, bias, and where NaN and infinity lie: where IEEE has them, NaN in all ones alone, or NaN in the
place of -0 (torch 2.13 `c10/util/Float8_*.h`)."""

Decode = Callable[[bytes], Sequence[float]]


class Distance(NamedTuple):
    """The distance that was measured."""

    largest: float | None
    """The largest absolute difference of two finite elements; None where none was measured."""
    rows: int
    """Rows that were measured whole."""
    nonfinite: bool
    """True where a NaN or an infinity stands where another member has something else."""


class DistanceMeter:
    """Measures the rows that differ, of members that come block by block, against the first member."""

    def __init__(self, dtype: str, bands: RowBands, *, exact: bool, thorough: bool) -> None:
        """Begin; `exact` measures all, however long it takes, and `thorough` says that numpy is worth its import."""
        self._dtype = dtype
        self._bands = bands
        self._place = (0, 1)
        self._decode = number_decoder(dtype)
        self._few = FEW
        self._bytes = sys.maxsize if exact else MEASURED
        self._numpy = thorough
        self._exact = exact
        self._largest: float | None = None
        self._rows = 0
        self._nonfinite = False

    @property
    def distance(self) -> Distance:
        """The distance that was measured so far."""
        return Distance(self._largest, self._rows, self._nonfinite)

    def take(self, blocks: Sequence[bytes], differing: Iterable[slice], place: tuple[int, int], *, whole: bool) -> None:
        """Measure where some blocks differ, one of each member.

        Args:
            blocks: The bytes of each member.
            differing: Where the rows that differ lie.
            place: The first row of the blocks, and the bytes of a row.
            whole: Whether those are whole rows.
        """
        late: list[slice] = []
        self._place = place
        for row in differing:
            if self._decode is None:
                continue
            if row.stop - row.start <= self._few:
                self._few -= row.stop - row.start
                for block in blocks[1:]:
                    self._note(row, *_apart(self._decode(blocks[0][row]), self._decode(block[row])))
                self._rows += whole
            else:
                late.append(row)
        if late and self._decode is not None:
            self._take_late(blocks, late, whole=whole)

    def _take_late(self, blocks: Sequence[bytes], late: list[slice], *, whole: bool) -> None:
        """Rows beyond the first few elements: by numpy, or by Python if everything is asked for, or a beginning."""
        span = slice(late[0].start, late[-1].stop)
        numpy = import_numpy() if self._numpy and self._bytes > 0 else None
        decode = self._decode
        if numpy is None and not self._exact:
            if self._largest is not None or decode is None:
                return
            span, whole = slice(span.start, min(span.stop, span.start + FEW)), False  # a row longer than a few
        self._bytes -= span.stop - span.start
        for block in blocks[1:]:
            if numpy is not None:
                self._note(span, *_apart_by_numpy(numpy, self._dtype, blocks[0][span], block[span]))
            elif decode is not None:
                self._note(span, *_apart(decode(blocks[0][span]), decode(block[span])))
        self._rows += len(late) if whole else 0

    def _note(self, span: slice, largest: float | None, nonfinite: bool) -> None:
        row, width = self._place
        self._bands.measure(row + span.start // width, row + (span.stop - 1) // width, largest)
        if largest is not None:
            self._largest = largest if self._largest is None else max(self._largest, largest)
        self._nonfinite = self._nonfinite or nonfinite


def number_decoder(dtype: str) -> Decode | None:
    """Return the function that makes numbers of a dtype's bytes; None for a dtype without numbers."""
    if dtype in _EIGHT_BITS:
        table = eight_bit_values(dtype)
        return lambda raw: [table[byte] for byte in raw]
    return (lambda raw: word_numbers(raw, dtype)) if dtype == "bfloat16" or dtype in CODES else None


def word_numbers(raw: bytes | bytearray, dtype: str) -> Sequence[float]:
    """Return the numbers of little-endian bytes, as safetensors has them, of `bfloat16` or a dtype of `CODES`."""
    if dtype == "bfloat16":  # the upper halves of as many float32
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        return word_numbers(wide, "float32")
    code = CODES[dtype]
    if sys.byteorder == "little" and code != "f2":  # a cast copies nothing, takes the machine's order, knows no half
        return memoryview(raw).cast(_FORMATS[code])  # type: ignore[call-overload, no-any-return]
    return struct.unpack(f"<{len(raw) // int(code[1])}{_FORMATS[code]}", raw)


def eight_bit_values(dtype: str) -> list[float]:
    """Return the number that each byte of an 8-bit float dtype stands for."""
    exponent_bits, bias, kind = _EIGHT_BITS[dtype]
    mantissa_bits = 7 - exponent_bits
    top = (1 << exponent_bits) - 1
    values = []
    for byte in range(256):
        exponent = byte >> mantissa_bits & top
        mantissa = byte & ((1 << mantissa_bits) - 1)
        fraction = mantissa / (1 << mantissa_bits)
        value = math.ldexp(fraction + (exponent > 0), max(exponent, 1) - bias)
        if kind == "ieee" and exponent == top:
            value = math.nan if mantissa else math.inf
        elif (kind == "one" and byte & 0x7F == 0x7F) or (kind == "zero" and byte == 0x80):
            value = math.nan
        values.append(-value if byte & 0x80 else value)
    return values


def _apart(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, bool]:
    """Return the largest finite difference, and whether a NaN or infinity stands against something else."""
    apart = list(map(abs, map(sub, first, second)))
    if math.isfinite(sum(apart)):
        return float(max(apart, default=0)), False
    found: float | None = None
    nonfinite = False
    for a, b in zip(first, second, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            found = max(found or 0.0, min(abs(a - b), sys.float_info.max))
        elif a != b and not (math.isnan(a) and math.isnan(b)):
            nonfinite = True
    return found, nonfinite


def import_numpy() -> Any:
    """Return numpy; None where it is not installed."""
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def _apart_by_numpy(numpy: Any, dtype: str, first: bytes, second: bytes) -> tuple[float | None, bool]:
    """Measure the same by numpy."""
    a, b = elements_array(numpy, dtype, first), elements_array(numpy, dtype, second)
    if a.dtype.kind in "iu":
        unsigned = f"u{a.dtype.itemsize}"
        return float((numpy.maximum(a, b).view(unsigned) - numpy.minimum(a, b).view(unsigned)).max(initial=0)), False
    with numpy.errstate(all="ignore"):
        apart = numpy.abs(a.astype("f8") - b.astype("f8"))
    largest = float(apart.max(initial=0.0))
    if math.isfinite(largest):
        return largest, False
    finite = numpy.isfinite(a) & numpy.isfinite(b)
    found = min(float(apart[finite].max()), sys.float_info.max) if finite.any() else None
    odd = ~finite & (a != b) & ~(numpy.isnan(a) & numpy.isnan(b))
    return found, bool(odd.any())


def elements_array(numpy: Any, dtype: str, raw: bytes) -> Any:
    """Return the elements of some bytes of a dtype with a decoder; a float type that numpy lacks comes as `f4`."""
    if dtype == "bfloat16":
        return (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    if dtype in _EIGHT_BITS:
        return numpy.array(eight_bit_values(dtype), "f4")[numpy.frombuffer(raw, "u1")]
    return numpy.frombuffer(raw, f"<{CODES[dtype]}")
