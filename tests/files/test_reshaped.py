"""Members that differ in shape or dtype: padded, transposed or cast, on files that safetensors wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import reshaped
from tiecheck.files.compare.reshaped import compare_reshaped, compare_transposed, relation_in_words
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor
from tiecheck.records.words import Unknown


def stored(root: Path, **members: torch.Tensor) -> tuple[Checkpoint, tuple[StoredTensor, ...]]:
    save_file(
        {"lead": torch.zeros(3), **{k: v.clone().contiguous() for k, v in members.items()}}, root / "model.safetensors"
    )
    checkpoint = read_checkpoint(str(root))
    assert checkpoint is not None
    return checkpoint, tuple(t for t in map(checkpoint.tensor, members) if t is not None)


def formed(root: Path, **members: torch.Tensor) -> Comparison | Unknown | None:
    return compare_reshaped(*stored(root, **members))


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


class TestPadded:
    def test_rows_of_zeros_behind_equal_ones(self, tmp_path: Path) -> None:
        a = draw(100, 8)
        found = formed(tmp_path, a=a, b=torch.cat([a, torch.zeros(28, 8)]))
        assert found == Comparison(
            True, 100, 0, 100, None, None, False, form="padded", extra_rows=28, extra_constant=True
        )
        assert relation_in_words(found) == "one has 28 rows more of one value, and the 100 rows that all have are equal"

    def test_rows_of_values_and_either_order(self, tmp_path: Path) -> None:
        a = draw(100, 8)
        found = formed(tmp_path, a=torch.cat([a, draw(1, 8)]), b=a)
        assert isinstance(found, Comparison)
        assert (found.equal, found.form, found.extra_rows, found.extra_constant) == (True, "padded", 1, False)
        assert relation_in_words(found) == "one has 1 row more, and the 100 rows that all have are equal"

    def test_common_rows_that_differ_are_counted_and_measured(self, tmp_path: Path) -> None:
        a, b = draw(100, 8), torch.cat([draw(100, 8), torch.zeros(4, 8)])
        b[7, 3] += 2
        found = formed(tmp_path, a=a, b=b)
        assert isinstance(found, Comparison)
        assert (found.equal, found.rows, found.rows_differ, found.first_row, found.extra_rows) == (False, 100, 1, 7, 4)
        assert found.max_difference == pytest.approx(2)
        assert relation_in_words(found).endswith("differ too")

    def test_three_members(self, tmp_path: Path) -> None:
        a = draw(64, 4)
        found = formed(tmp_path, a=a, b=a[:60], c=torch.cat([a, torch.ones(2, 4)]))
        assert isinstance(found, Comparison)
        assert (found.equal, found.rows, found.extra_rows) == (True, 60, 6)

    def test_extra_rows_larger_than_a_block(self, tmp_path: Path) -> None:
        a = draw(10, 1000)
        for value, constant in ((torch.zeros(700, 1000), True), (draw(700, 1000), False)):
            found = formed(tmp_path, a=a, b=torch.cat([a, value]))
            assert isinstance(found, Comparison)
            assert found.extra_constant is constant

    def test_no_rows_and_other_columns_have_no_form(self, tmp_path: Path) -> None:
        assert formed(tmp_path, a=draw(0, 8), b=draw(4, 8)) is None
        assert formed(tmp_path, a=draw(8, 8), b=draw(8, 9)) is None
        assert formed(tmp_path, a=draw(8), b=draw(8, 1)) is None


class TestTransposed:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
    @pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 5), (300, 40)])
    def test_is_recognised(self, tmp_path: Path, monkeypatch, dtype: torch.dtype, shape: tuple[int, int]) -> None:
        monkeypatch.setattr(reshaped, "STRIP", 1000)  # many strips
        a = draw(*shape).mul(9).to(dtype)
        found = formed(tmp_path, a=a, b=a.T)
        assert found == Comparison(True, shape[0], 0, shape[0], None, None, False, form="transposed")
        assert "transposed" in relation_in_words(found)

    def test_one_other_element_anywhere_is_seen(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(reshaped, "STRIP", 1000)
        a = draw(130, 90)
        for place in ((0, 0), (77, 13), (129, 89), (1, 88)):
            b = a.T.clone()
            b[place[1], place[0]] += 1
            assert formed(tmp_path, a=a, b=b) is None

    def test_three_members_of_which_two_are_alike(self, tmp_path: Path) -> None:
        a = draw(20, 6)
        found = formed(tmp_path, a=a, b=a.T, c=a.clone())
        assert isinstance(found, Comparison)
        assert found.form == "transposed"
        assert formed(tmp_path, a=a, b=a.T, c=a + 1) is None

    def test_square_ones_are_alike_in_shape(self, tmp_path: Path) -> None:
        a = draw(50, 50)
        found = compare_transposed(*stored(tmp_path, a=a, b=a.T))
        assert found is not None
        assert found.form == "transposed"
        assert compare_transposed(*stored(tmp_path, a=a, b=a + 1)) is None
        assert compare_transposed(*stored(tmp_path, a=draw(4), b=draw(4))) is None


class TestCast:
    @pytest.mark.parametrize(
        ("wide", "narrow"),
        [
            (torch.float32, torch.bfloat16),
            (torch.float32, torch.float16),
            (torch.float64, torch.float32),
            (torch.float64, torch.bfloat16),
            (torch.float16, torch.bfloat16),
            (torch.bfloat16, torch.float16),
        ],
    )
    def test_is_recognised_either_way_round(self, tmp_path: Path, wide: torch.dtype, narrow: torch.dtype) -> None:
        a = draw(400, 300).double().mul(0.02).to(wide)
        a[3, 5], a[4, 4], a[5, 5] = torch.nan, torch.inf, -0.0
        for members in ({"a": a, "b": a.to(narrow)}, {"a": a.to(narrow), "b": a}):
            found = formed(tmp_path, **members)
            assert isinstance(found, Comparison)
            assert (found.equal, found.form) == (True, "cast")
            assert "cast" in relation_in_words(found)

    def test_one_bit_off_is_no_cast(self, tmp_path: Path) -> None:
        a = draw(400, 300)
        b = a.bfloat16()
        b.view(torch.int16)[317, 211] += 1
        assert formed(tmp_path, a=a, b=b) is None

    def test_other_values_and_other_dtypes_are_none(self, tmp_path: Path) -> None:
        a = draw(40, 30)
        assert formed(tmp_path, a=a, b=(a + 1).bfloat16()) is None
        assert formed(tmp_path, a=a, b=a.to(torch.float8_e4m3fn)) is None
        assert formed(tmp_path, a=a.int(), b=a.to(torch.int8)) is None

    def test_without_numpy_it_is_not_known(self, tmp_path: Path, monkeypatch) -> None:
        a = draw(40, 30)
        checkpoint, tensors = stored(tmp_path, a=a, b=a.bfloat16())
        monkeypatch.setitem(sys.modules, "numpy", None)
        assert compare_reshaped(checkpoint, tensors) is None


def test_file_cut_meanwhile_is_unknown(tmp_path: Path) -> None:
    a = draw(100, 8)
    for other in (a.T, a[:50], a.bfloat16()):
        checkpoint, tensors = stored(tmp_path, a=a, b=other)
        (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:600])
        found = compare_reshaped(checkpoint, tensors)
        assert isinstance(found, Unknown)
        assert "ends too early" in found.reason


def test_memory_is_bounded(tmp_path: Path) -> None:
    import tracemalloc

    a = torch.zeros(4096, 4096)
    for members in ({"a": a, "b": torch.zeros(1024, 16384)}, {"a": a, "b": a[:-1]}, {"a": a[:, :2048], "b": a[:2048]}):
        checkpoint, tensors = stored(tmp_path, **members)
        tracemalloc.start()
        compare_reshaped(checkpoint, tensors)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 24 << 20
