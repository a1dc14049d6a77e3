"""Comparing stored bytes, against a comparison by brute force; in bounded memory, and no further than needed."""

from __future__ import annotations

import json
import math
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import equality
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.reshaped import surely_apart
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor
from tiecheck.records.words import Unknown

WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
          "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}  # fmt: skip
TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F64": torch.float64, "U8": torch.uint8,
         "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
         "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz}  # fmt: skip
SHARD = "model-{}.safetensors"


def write(  # noqa: PLR0917  # a checkpoint has that many sides
    root: Path, members: list[bytes], dtype: str, shape: tuple[int, ...], shards: list[int], lead: int
) -> None:
    """Members `m0`, `m1` ... over some shards, with other bytes before them."""
    files: dict[int, tuple[dict[str, Any], bytes]] = {}
    for i, (data, shard) in enumerate(zip(members, shards, strict=True)):
        header, body = files.setdefault(shard, ({}, b""))
        pad = bytes(lead)
        header[f"pad{i}"] = {"dtype": "U8", "shape": [lead], "data_offsets": [len(body), len(body) + lead]}
        body += pad
        header[f"m{i}"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        files[shard] = (header, body + data)
    weight_map = {}
    for shard, (header, body) in files.items():
        text = json.dumps(header).encode()
        (root / SHARD.format(shard)).write_bytes(len(text).to_bytes(8, "little") + text + body)
        weight_map |= {name: SHARD.format(shard) for name in header}
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def compared(root: Path, count: int) -> Comparison | Unknown:
    checkpoint = read_checkpoint(str(root))
    assert checkpoint is not None
    return compare_bytes(checkpoint, tuple(t for i in range(count) if (t := checkpoint.tensor(f"m{i}")) is not None))


def by_force(members: list[bytes], shape: tuple[int, ...], dtype: str) -> Comparison:
    """The same answer, row by row and with everything in memory; the distance by torch."""
    width = WIDTHS[dtype]
    rows = shape[0] if shape else 1
    size = len(members[0]) // rows if rows else 0
    differ = [
        row for row in range(rows) if any(m[row * size : (row + 1) * size] != members[0][row * size : (row + 1) * size]
                                          for m in members)
    ]  # fmt: skip
    equal = not differ
    elements = {members[0][i : i + width] for i in range(0, len(members[0]), width)}
    distances: list[float] = []
    of_band: dict[int, list[float]] = {row * min(64, rows) // rows: [] for row in differ}
    nonfinite = False
    for member in members[1:]:
        for row in differ:
            part = slice(row * size, (row + 1) * size)
            a, b = (torch.frombuffer(bytearray(m[part]), dtype=TORCH[dtype]).double() for m in (members[0], member))
            finite = a.isfinite() & b.isfinite()
            found = (a - b).abs()[finite].clamp(max=sys.float_info.max).tolist()
            distances += found
            of_band[row * min(64, rows) // rows] += found
            nonfinite |= bool((~finite & (a != b) & ~(a.isnan() & b.isnan())).any())
    return Comparison(
        equal,
        rows,
        len(differ),
        rows,
        None if equal else differ[0],
        None if equal else differ[-1],
        equal and len(elements) == 1,
        max_difference=max(distances, default=None),
        rows_measured=len(differ),
        nonfinite=nonfinite,
        bands="" if equal else "".join(_mark(of_band, band, distances) for band in range(min(64, rows))),
        nan=equal
        and bool(members[0])
        and bool(torch.frombuffer(bytearray(members[0]), dtype=TORCH[dtype]).double().isnan().any()),
    )


def _mark(of_band: dict[int, list[float]], band: int, distances: list[float]) -> str:
    if not of_band.get(band):
        return "?" if band in of_band else "."
    return str(max(1, math.ceil(9 * (max(of_band[band]) / (max(distances) or 1)))))


@st.composite
def problems(draw):
    """Members of one dtype and shape, that differ at a few places or at none."""
    dtype = draw(st.sampled_from(sorted(WIDTHS)))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    total = WIDTHS[dtype]
    for size in shape:
        total *= size
    fills = [bytes(total), b"\x01" * total, b"\x7f" * total, b"\x80" * total]  # the last two are NaN in some
    base = draw(st.one_of(st.binary(min_size=total, max_size=total), st.sampled_from(fills)))
    members = [base]
    for _ in range(draw(st.integers(1, 3))):
        changed = bytearray(base)
        for place in draw(st.lists(st.integers(0, max(0, total - 1)), max_size=3)):
            if total:
                changed[place] ^= draw(st.integers(0, 255))
        members.append(bytes(changed))
    shards = [draw(st.integers(0, 1)) for _ in members]
    return dtype, shape, members, shards, draw(st.integers(0, 5))


@settings(deadline=None, max_examples=150)
@given(problems(), st.sampled_from([16, 64, 256 * 1024]), st.booleans())
@example(("F32", (3, 2), [bytes(24), bytes(24)], [0, 0], 0), 16, False)
@example(("BF16", (3, 2), [b"\x7f" * 12, b"\x7f" * 12], [0, 0], 0), 16, True)
def test_says_what_brute_force_says(tmp_path_factory, problem, block, many) -> None:
    dtype, shape, members, shards, lead = problem
    root = tmp_path_factory.mktemp("values")
    write(root, members, dtype, shape, shards, lead)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equality, "BLOCK", block)  # so that small tensors take many pieces, and rows more than one
        patch.setattr(equality, "MANY", 0 if many else equality.MANY)  # a NaN is looked for by numpy, or without
        result = compared(root, len(members))
        wanted = by_force(members, shape, dtype)
        assert isinstance(result, Comparison)
        if len(members[0]) // (wanted.rows or 1) > block:  # of a row longer than a block the beginning is measured
            found = result.max_difference
            assert found is None or (wanted.max_difference is not None and found <= wanted.max_difference)
            result, wanted = (
                c._replace(max_difference=None, nonfinite=False, rows_measured=0, bands="") for c in (result, wanted)
            )
        assert result == wanted


@pytest.mark.parametrize("row", [0, 1, 511, 1022, 1023])
@pytest.mark.parametrize("width", [4, 4096, 300_000])
def test_one_row_is_found_wherever_it_is(tmp_path: Path, row: int, width: int) -> None:
    rows = 1024 if width < 10_000 else 16
    row = min(row, rows - 1)
    first = bytes(range(256)) * (rows * width // 256 + 1)
    first = first[: rows * width]
    second = bytearray(first)
    second[(row + 1) * width - 1] ^= 1
    write(tmp_path, [first, bytes(second)], "U8", (rows, width), [0, 1], 3)
    result = compared(tmp_path, 2)
    assert isinstance(result, Comparison)
    assert result[:7] == (False, rows, 1, rows, row, row, False)
    assert result.max_difference == 1 or width > equality.BLOCK


def test_first_and_last_rows_are_told(tmp_path: Path) -> None:
    first = bytes(200_000)
    second = b"\x01" + bytes(199_998) + b"\x01"
    write(tmp_path, [first, second], "U8", (2000, 100), [0, 0], 0)
    wanted = Comparison(False, 2000, 2, 2000, 0, 1999, False, max_difference=1, rows_measured=2)
    wanted = wanted._replace(bands=f"9{'.' * 62}9")
    assert compared(tmp_path, 2) == wanted


class TestConstant:
    @pytest.mark.parametrize(("dtype", "bits"), [("F32", 32), ("BF16", 16), ("F4", 4), ("F6_E2M3", 6), ("F8_E4M3", 8)])
    def test_zeros_are_constant_in_every_dtype(self, tmp_path: Path, dtype: str, bits: int) -> None:
        data = bytes(512 * 1024 * bits // 8)
        write(tmp_path, [data, data], dtype, (512, 1024), [0, 0], 0)
        result = compared(tmp_path, 2)
        assert isinstance(result, Comparison)
        assert (result.equal, result.constant) == (True, True)

    def test_ones_then_zeros_are_not_constant(self, tmp_path: Path) -> None:
        data = bytes(4 * 1024 * 1024) + b"\x01" * (4 * 1024 * 1024)
        write(tmp_path, [data, data], "U8", (8192, 1024), [0, 0], 0)
        result = compared(tmp_path, 2)
        assert isinstance(result, Comparison)
        assert (result.equal, result.constant) == (True, False)

    def test_one_other_element_between_the_samples_is_seen(self, tmp_path: Path) -> None:
        data = bytearray(4 * 1024 * 1024)
        data[1_234_567] = 1
        write(tmp_path, [bytes(data), bytes(data)], "U8", (4096, 1024), [0, 0], 0)
        result = compared(tmp_path, 2)
        assert isinstance(result, Comparison)
        assert (result.equal, result.constant) == (True, False)

    def test_elements_that_repeat_in_bytes_but_differ_are_not_constant(self, tmp_path: Path) -> None:
        data = b"\x00\x01" * 1000
        write(tmp_path, [data, data], "U8", (10, 200), [0, 0], 0)
        result = compared(tmp_path, 2)
        assert isinstance(result, Comparison)
        assert not result.constant


def sparse(root: Path, nbytes: int, shape: tuple[int, int], marks: dict[int, bytes], lead: int = 0) -> Checkpoint:
    """Two members of a given size in one file of holes; `marks` are bytes at places of the second member."""
    header = {
        "m0": {"dtype": "U8", "shape": shape, "data_offsets": [0, nbytes]},
        "m1": {"dtype": "U8", "shape": shape, "data_offsets": [nbytes, 2 * nbytes]},
    }
    text = json.dumps(header).encode()
    path = root / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * nbytes)
        for place, mark in marks.items():
            file.seek(8 + len(text) + nbytes + place)
            file.write(mark)
    checkpoint = read_checkpoint(str(root))
    assert checkpoint is not None
    return checkpoint


def pair(checkpoint: Checkpoint) -> tuple[StoredTensor, ...]:
    return tuple(t for t in map(checkpoint.tensor, ("m0", "m1")) if t is not None)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The bytes of every `pread`."""
    counted: list[int] = []
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        counted.append(count)
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    return counted


def test_different_everywhere_is_told_from_few_bytes(tmp_path: Path, reads: list[int]) -> None:
    rows, width = 1 << 18, 4096  # 1 GiB each
    checkpoint = sparse(tmp_path, rows * width, (rows, width), {})
    path = tmp_path / "model.safetensors"
    start = pair(checkpoint)[1].start
    assert start is not None
    with path.open("r+b") as file:  # the places that are looked at: the first block, and every sample
        file.seek(start)
        file.write(b"\x01" * equality.BLOCK)
        for offset in equality.sample_offsets(rows * width):
            file.seek(start + offset)
            file.write(b"\x01" * min(equality.SAMPLE, rows * width - offset))
    result = compare_bytes(checkpoint, pair(checkpoint))
    assert isinstance(result, Comparison)
    assert (result.equal, result.rows_differ, result.rows_compared, result.first_row) == (False, 64, 64, 0)
    assert sum(reads) <= 2 * (equality.BLOCK + equality.FIRST * equality.SAMPLE)
    whole = compare_bytes(checkpoint, pair(checkpoint), exact=True)
    assert isinstance(whole, Comparison)
    assert (whole.equal, whole.rows_compared) == (False, rows), "`--values always` reads on to the end"


def test_alike_in_one_sample_is_counted_in_full(tmp_path: Path, reads: list[int]) -> None:
    rows, width = 1 << 14, 4096
    checkpoint = sparse(tmp_path, rows * width, (rows, width), {0: b"\x01", rows * width - 1: b"\x01"})
    wanted = Comparison(False, rows, 2, rows, 0, rows - 1, False, max_difference=1, rows_measured=2)
    wanted = wanted._replace(bands=f"9{'.' * (min(64, rows) - 2)}9")
    assert compare_bytes(checkpoint, pair(checkpoint)) == wanted


def test_memory_is_bounded_whatever_the_shape(tmp_path: Path) -> None:
    size = 64 << 20
    for shape in ((size // 4096, 4096), (2, size // 2), (1, size)):
        checkpoint = sparse(tmp_path, size, shape, {size - 1: b"\x01"})
        tracemalloc.start()
        result = compare_bytes(checkpoint, pair(checkpoint))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(result, Comparison)
        assert (result.equal, result.rows_differ, result.last_row) == (False, 1, shape[0] - 1)
        assert peak < 16 * equality.BLOCK


@pytest.mark.slow
def test_last_row_of_one_gigabyte_is_found_in_bounded_memory(tmp_path: Path) -> None:
    size = 1 << 30
    checkpoint = sparse(tmp_path, size, (size // 8192, 8192), {size - 1: b"\x01"})
    tracemalloc.start()
    result = compare_bytes(checkpoint, pair(checkpoint))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows = size // 8192
    wanted = Comparison(False, rows, 1, rows, rows - 1, rows - 1, False, max_difference=1, rows_measured=1)
    assert result == wanted._replace(bands=f"{'.' * (min(64, rows) - 1)}9")
    assert peak < 16 * equality.BLOCK


def test_very_many_narrow_rows_are_counted_up_to_a_limit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(equality, "ROW_BUDGET", 1000)
    monkeypatch.setattr(equality, "BLOCK", 512)
    rows = 100_000
    first = bytes(rows)
    second = bytes(50_000) + b"\x01\x00" * 25_000
    write(tmp_path, [first, second], "U8", (rows,), [0, 0], 0)
    result = compared(tmp_path, 2)
    assert isinstance(result, Comparison)
    assert (result.equal, result.first_row) == (False, 50_000)
    assert result.rows_compared < 52_000
    assert result.rows_differ == (result.rows_compared - 50_000 + 1) // 2


def test_elements_that_share_bytes_over_rows_have_no_rows(tmp_path: Path) -> None:
    write(tmp_path, [b"\x00\x01\x02", b"\x00\x01\x03"], "F4", (2, 3), [0, 0], 0)
    assert compared(tmp_path, 2) == Comparison(False, 2, None, 0, None, None, False)


class TestFilesThatChange:
    def test_file_cut_meanwhile_is_unknown(self, tmp_path: Path) -> None:
        checkpoint = sparse(tmp_path, 1 << 20, (1024, 1024), {})
        os.truncate(tmp_path / "model.safetensors", 1 << 20)
        result = compare_bytes(checkpoint, pair(checkpoint))
        assert isinstance(result, Unknown)
        assert "the file ends too early" in result.reason

    def test_file_gone_meanwhile_is_told(self, tmp_path: Path) -> None:
        checkpoint = sparse(tmp_path, 1024, (32, 32), {})
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(TargetError, match="cannot be read: No such file"):
            compare_bytes(checkpoint, pair(checkpoint))

    def test_pipe_in_its_place_does_not_keep_us_waiting(self, tmp_path: Path) -> None:
        checkpoint = sparse(tmp_path, 1024, (32, 32), {})
        (tmp_path / "model.safetensors").unlink()
        os.mkfifo(tmp_path / "model.safetensors")
        with pytest.raises(TargetError, match="a pipe or a device"):
            compare_bytes(checkpoint, pair(checkpoint))

    def test_no_descriptor_stays_open(self, tmp_path: Path) -> None:
        checkpoint = sparse(tmp_path, 1024, (32, 32), {})
        before = len(os.listdir("/proc/self/fd"))
        compare_bytes(checkpoint, pair(checkpoint))
        os.truncate(tmp_path / "model.safetensors", 500)
        compare_bytes(checkpoint, pair(checkpoint))
        assert len(os.listdir("/proc/self/fd")) == before


def test_shards_that_are_one_file_are_not_read_twice(tmp_path: Path, reads: list[int]) -> None:
    data = bytes(range(256)) * 4096
    write(tmp_path, [data], "U8", (4096, 256), [0], 0)
    os.link(tmp_path / SHARD.format(0), tmp_path / SHARD.format(1))
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"m0": SHARD.format(0)}})
    )
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint is not None
    tensor = checkpoint.tensor("m0")
    assert tensor is not None
    result = compare_bytes(checkpoint, (tensor, tensor._replace(file=SHARD.format(1))))
    assert result == Comparison(True, 4096, 0, 4096, None, None, False)
    assert sum(reads) < 2 * len(data)


@pytest.mark.parametrize("value", [0.0, 1.0, float("inf"), float("nan")])
def test_samples_tell_a_finite_difference_and_nothing_else(value: float, tmp_path: Path) -> None:
    first = torch.zeros(64, 16)
    other = first.clone()
    other[:] = value
    write(tmp_path, [t.numpy().tobytes() for t in (first, other)], "F32", (64, 16), [1, 1], 8)
    stored = read_checkpoint(str(tmp_path))
    assert stored is not None
    members = tuple(t for name in ("m0", "m1") if (t := stored.tensor(name)) is not None)
    assert surely_apart(stored, members) is (value == 1.0)


@pytest.mark.parametrize("dtype", sorted(equality._INFINITY))
def test_numpy_and_the_decoder_find_the_same_nan(dtype: str) -> None:
    size, infinity = equality._TOPS[dtype][0], equality._INFINITY[dtype]
    for sign in (0, 1 << (8 * size - 1)):
        for bits in (0, 1, infinity - 1, infinity, infinity + 1, (1 << (8 * size - 1)) - 1):
            block = b"".join(n.to_bytes(size, "little") for n in (0, sign | bits, sign | 1))
            found = equality._holds_nan(block, dtype, np)
            assert found == equality._holds_nan(block, dtype) == (bits > infinity)
