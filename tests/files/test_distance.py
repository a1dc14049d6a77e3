"""How far elements lie apart, held against torch; with numpy and without."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from tiecheck.files.compare import distance
from tiecheck.files.compare.distance import (
    CODES,
    FEW,
    Distance,
    DistanceMeter,
    RowBands,
    eight_bit_values,
    elements_array,
    number_decoder,
)

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
          "float8_e5m2fnuz", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")  # fmt: skip


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).flatten().tolist())


def measured(dtype: str, *members: bytes, rows: int = 1, exact: bool = True) -> Distance:
    found = DistanceMeter(dtype, RowBands(rows), exact=exact, thorough=exact)
    width = len(members[0]) // rows
    found.take(members, (slice(i * width, (i + 1) * width) for i in range(rows)), (0, width or 1), whole=True)
    return found.distance


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.startswith("float8")])
def test_every_byte_of_an_eight_bit_float_is_what_torch_says(dtype: str) -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(getattr(torch, dtype)).double().tolist()
    for ours, value in zip(eight_bit_values(dtype), theirs, strict=True):
        assert (ours == value and math.copysign(1, ours) == math.copysign(1, value)) or (
            math.isnan(ours) and math.isnan(value)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 100, 40_000])
def test_the_largest_difference_is_torchs(dtype: str, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    kind = getattr(torch, dtype)
    members = []
    for _ in range(2):
        draw = torch.randint(0, 100, (size,), generator=generator)
        members.append(draw.to(kind) if not dtype.startswith("float") else (draw / 7 - 5).to(kind))
    largest = max((a - b).abs().max().item() for a, b in [[m.double() for m in members]])
    assert measured(dtype, *map(raw_bytes, members)) == Distance(largest, 1, False)


@pytest.mark.parametrize("numpy", [True, False])
def test_nan_and_infinity(monkeypatch, numpy: bool) -> None:
    if not numpy:
        monkeypatch.setitem(sys.modules, "numpy", None)
    pad = [0.0] * (FEW // 4)  # so that it is numpy's turn
    nan, inf = math.nan, math.inf
    cases: list[tuple[list[float], list[float], float | None, bool]] = [
        ([nan, 1.0], [nan, 3.0], 2, False),
        ([nan, 1.0], [5.0, 3.0], 2, True),
        ([inf, 1.0], [inf, 3.0], 2, False),
        ([inf, 1.0], [-inf, 3.0], 2, True),
        ([inf, 1.0], [2.0, 1.0], 0, True),
        ([3.4e38], [-3.4e38], 6.8e38, False),
    ]
    for more in ([], pad):
        for first, second, largest, nonfinite in cases:
            members = [raw_bytes(torch.tensor(m + more)) for m in (first, second)]
            found = measured("float32", *members)
            assert found.largest == pytest.approx(largest)
            assert found.nonfinite is nonfinite
            assert "NaN" not in json.dumps(found)
            assert "Infinity" not in json.dumps(found)
        everything = [raw_bytes(torch.tensor([x] * max(1, len(more)))) for x in (nan, 1.0)]
        assert measured("float32", *everything) == Distance(None, 1, True)


def test_a_difference_beyond_the_largest_double_is_a_number() -> None:
    for more in (1, FEW):
        members = [raw_bytes(torch.tensor([x] * more, dtype=torch.float64)) for x in (1.7e308, -1.7e308)]
        assert measured("float64", *members).largest == sys.float_info.max


@pytest.mark.parametrize(("dtype", "ends"), [("int64", (-(2**63), 2**63 - 1)), ("int8", (-128, 127))])
def test_integers_do_not_wrap_around(dtype: str, ends: tuple[int, int]) -> None:
    for more in (1, FEW):
        members = [raw_bytes(torch.tensor([x] * more, dtype=getattr(torch, dtype))) for x in ends]
        assert measured(dtype, *members).largest == float(ends[1] - ends[0])


@pytest.mark.parametrize("dtype", ["f4", "bool", "complex64", "float8_e8m0fnu", "f2"])
def test_a_dtype_without_numbers_has_no_distance(dtype: str) -> None:
    assert number_decoder(dtype) is None
    assert measured(dtype, b"\x00" * 8, b"\x01" * 8) == Distance(None, 0, False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_machine_of_the_other_order_of_bytes_reads_the_same_numbers(dtype: str, monkeypatch) -> None:
    decode, raw = number_decoder(dtype), bytes(range(1, 17))
    assert decode is not None
    here = list(decode(raw))
    monkeypatch.setattr(sys, "byteorder", "big")
    there = decode(raw)
    assert not isinstance(there, memoryview), "a cast takes the machine's order"
    assert list(there) == pytest.approx(here, rel=0, abs=0, nan_ok=True)


def test_the_members_of_three_are_held_against_the_first() -> None:
    members = [raw_bytes(torch.tensor([x])) for x in (0.0, 1.0, -4.0)]
    assert measured("float32", *members).largest == 4


def test_few_rows_are_measured_without_numpy_and_said_to_be_few(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    width = FEW // 4
    members = [bytes(20 * width), b"\x01" * (20 * width)]
    assert measured("uint8", *members, rows=20, exact=False) == Distance(1, 4, False)
    assert measured("uint8", *members, rows=20) == Distance(1, 20, False)


def test_numpy_measures_up_to_a_limit(monkeypatch) -> None:
    monkeypatch.setattr(distance, "MEASURED", 100_000)
    found = DistanceMeter("uint8", RowBands(4), exact=False, thorough=True)
    for row in range(4):
        found.take([bytes(80_000), b"\x02" * 80_000], [slice(0, 80_000)], (row, 80_000), whole=True)
    assert found.distance == Distance(2, 2, False)


def test_a_row_longer_than_a_few_is_measured_in_part(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert measured("uint8", bytes(2 * FEW), b"\x03" * (2 * FEW), exact=False) == Distance(3, 0, False)


def test_numpy_reads_every_dtype_that_is_read_without_it() -> None:
    import numpy as np

    raw = bytes(range(64))
    for dtype in DTYPES:
        read = number_decoder(dtype)
        assert read is not None
        assert np.array_equal(
            elements_array(np, dtype, raw).astype("f8"), np.array(list(read(raw)), "f8"), equal_nan=True
        )
    assert set(CODES) < set(DTYPES)
