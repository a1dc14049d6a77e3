"""Pickled checkpoints: nothing in them is run, sharing is kept, and a broken one is one sentence."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tiecheck.errors import TargetError
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.pickle.state_dict import read_state_dict
from tiecheck.records.stored import Checkpoint, Comparison
from tiecheck.records.words import Unknown

W = torch.arange(12, dtype=torch.float32).reshape(4, 3)


class Sentinel:
    """Leaves a file behind when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def read(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    return checkpoint


def judged(path: Path, value: Any, **options: Any) -> tuple[Checkpoint, Comparison | Unknown]:
    """Save a state dict of `a` and `b` and compare the two."""
    torch.save(value, path / "pytorch_model.bin", **options)
    checkpoint = read(path)
    tensors = tuple(t for t in map(checkpoint.tensor, ("a", "b")) if t is not None)
    return checkpoint, compare_bytes(checkpoint, tensors)


BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is no file of torch's: it begins with b'hello'"),
    "a web page": (b"<html><body>404</body>", "is no file of torch's: it begins with b'<html><b'"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid x", "is a Git LFS pointer, not the weights"),
    "no zip after all": (
        b"PK\x03\x04" + b"x" * 100,
        "is broken or no file of torch's: it is a zip archive that was cut off$",
    ),
    "zip cut in the middle": (saved({"a": W})[:600], "is broken or no file of torch's"),
    "older form cut": (
        saved({"a": W}, _use_new_zipfile_serialization=False)[:-5],
        r"has 48 bytes by its pickle, and 43 are there \(truncated\)",
    ),
    "a number": (saved(3), "holds no named tensors"),
    "a list": (saved([W]), "holds no named tensors"),
    "a tensor": (saved(W), "holds no named tensors"),
    "nothing": (saved({}), "holds no named tensors"),
    "numbers for names": (saved({1: W}), "holds no named tensors"),
    "a plain pickle": (pickle.dumps({"a": [1]}, protocol=2), "is broken or no file|holds no named|was not loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_told_by_name_and_cause(tmp_path: Path, case: str) -> None:
    raw, says = BROKEN[case]
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(raw)
    with pytest.raises(TargetError, match=says) as caught:
        read_checkpoint(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("where", ["beside", "inside", "alone"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool, where: str) -> None:
    sentinel = tmp_path / "sentinel"
    value = {
        "beside": {"a": W, "b": Sentinel(sentinel)},
        "inside": {"state_dict": {"a": W}, "x": [Sentinel(sentinel)]},
        "alone": Sentinel(sentinel),
    }
    path = tmp_path / "pytorch_model.bin"
    torch.save(value[where], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TargetError, match=r"was not loaded: it is a pickle that asks for posix\.system"):
        read_checkpoint(str(path))
    assert not sentinel.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Sentinel(tmp_path / "sentinel"), protocol=protocol))
    with pytest.raises(TargetError):
        read_checkpoint(str(path))
    assert not (tmp_path / "sentinel").exists()


def test_object_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    torch.save({"a": W, "args": argparse.Namespace(x=1)}, tmp_path / "m.ckpt")
    with pytest.raises(TargetError, match=r"asks for argparse\.Namespace"):
        read_state_dict(str(tmp_path / "m.ckpt"))


def test_torchscript_is_told(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(TargetError, match="is a TorchScript program"):
        read_state_dict(str(tmp_path / "m.pt"))


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pytorch_model.bin")
    with pytest.raises(TargetError, match="a pipe or a device"):
        read_checkpoint(str(tmp_path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_damaged_bytes_never_crash(tmp_path: Path, zipped: bool) -> None:
    raw = saved({"a": W, "b": W}, _use_new_zipfile_serialization=zipped)
    draw = random.Random(0)
    path = tmp_path / "pytorch_model.bin"
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(raw) if zipped else 400)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            checkpoint = read_checkpoint(str(path))
        except TargetError as error:
            assert str(path) in str(error)  # noqa: PT017  # either is right
        else:
            assert checkpoint is not None


class TestSharing:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
    def test_tied_members_have_one_place(self, tmp_path: Path, zipped: bool) -> None:
        tied = torch.nn.Parameter(W.clone())
        checkpoint, _ = judged(tmp_path, {"a": tied, "b": tied, "c": W.clone()}, _use_new_zipfile_serialization=zipped)
        assert checkpoint.slots["a"] == checkpoint.slots["b"]
        assert checkpoint.slots["c"].storage != checkpoint.slots["a"].storage

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
    def test_equal_copies_have_two(self, tmp_path: Path, zipped: bool) -> None:
        checkpoint, result = judged(tmp_path, {"a": W.clone(), "b": W.clone()}, _use_new_zipfile_serialization=zipped)
        assert checkpoint.slots["a"] != checkpoint.slots["b"]
        assert result == Comparison(True, 4, 0, 4, None, None, False)

    def test_transposed_view_has_another_place(self, tmp_path: Path) -> None:
        square = torch.arange(9.0).reshape(3, 3)
        checkpoint, result = judged(tmp_path, {"a": square, "b": square.t()})
        assert checkpoint.slots["a"].storage == checkpoint.slots["b"].storage
        assert checkpoint.slots["a"] != checkpoint.slots["b"]
        assert isinstance(result, Comparison)
        assert not result.equal

    def test_empty_tensors_share_nothing(self, tmp_path: Path) -> None:
        checkpoint, result = judged(tmp_path, {"a": torch.zeros(0, 3), "b": torch.zeros(0, 3)})
        assert checkpoint.slots == {}
        assert result == Comparison(True, 0, 0, 0, None, None, False)

    def test_shards_of_one_checkpoint_share_nothing(self, tmp_path: Path) -> None:
        for i, name in enumerate(("a", "b")):
            torch.save({name: W}, tmp_path / f"pytorch_model-{i}.bin")
        weight_map = {"a": "pytorch_model-0.bin", "b": "pytorch_model-1.bin"}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        checkpoint = read(tmp_path)
        assert sorted(checkpoint.names()) == ["a", "b"]
        assert checkpoint.slots["a"].storage != checkpoint.slots["b"].storage
        tensors = tuple(t for t in map(checkpoint.tensor, ("a", "b")) if t is not None)
        assert compare_bytes(checkpoint, tensors) == Comparison(True, 4, 0, 4, None, None, False)


class TestCompare:
    def test_nan_in_both_copies_is_equal(self, tmp_path: Path) -> None:
        value = W.clone()
        value[1] = float("nan")
        _, result = judged(tmp_path, {"a": value, "b": value.clone()})
        assert result == Comparison(True, 4, 0, 4, None, None, False, nan=True)

    def test_rows_that_differ_are_counted(self, tmp_path: Path) -> None:
        other = W.clone()
        other[2:] += 1
        _, result = judged(tmp_path, {"a": W, "b": other})
        assert result == Comparison(False, 4, 2, 4, 2, 3, False, max_difference=1, rows_measured=2, bands="..99")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64, torch.complex64])
    def test_every_dtype_is_compared_by_its_bytes(self, tmp_path: Path, dtype: torch.dtype) -> None:
        value = W.to(dtype)
        _, result = judged(tmp_path, {"a": value, "b": value.clone()})
        assert isinstance(result, Comparison)
        assert result.equal
        assert not result.constant

    def test_layout_in_memory_does_not_matter(self, tmp_path: Path) -> None:
        wide = torch.arange(300_000.0).reshape(3, 100_000)
        turned = wide.t().contiguous().t()
        assert not turned.is_contiguous()
        _, result = judged(tmp_path, {"a": wide, "b": turned})
        assert result == Comparison(True, 3, 0, 3, None, None, False)

    def test_conjugated_view_is_compared_by_value(self, tmp_path: Path) -> None:
        value = torch.complex(W, W + 1)
        _, result = judged(tmp_path, {"a": value.conj(), "b": value.conj().resolve_conj()})
        assert isinstance(result, Comparison)
        assert result.equal

    def test_constant_is_told(self, tmp_path: Path) -> None:
        _, result = judged(tmp_path, {"a": torch.ones(4, 3), "b": torch.ones(4, 3)})
        assert isinstance(result, Comparison)
        assert result.constant

    def test_scalar(self, tmp_path: Path) -> None:
        _, result = judged(tmp_path, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
        assert result == Comparison(False, 1, 1, 1, 0, 0, False, max_difference=1, rows_measured=1, bands="9")

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (W.to_sparse(), "sparse"),
            (torch.empty(4, 3, device="meta"), "meta device"),
            (torch.ones(1).expand(10**6, 10**6), "expanded view, larger than its memory"),
        ],
    )
    def test_what_has_no_bytes_of_its_own_is_unknown_with_the_reason(
        self, tmp_path: Path, value: torch.Tensor, says: str
    ) -> None:
        _, result = judged(tmp_path, {"a": value, "b": value.clone() if value.is_sparse else value})
        assert isinstance(result, Unknown)
        assert says in result.reason


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_state_dict_of_a_trainer_is_found(tmp_path: Path, key: str) -> None:
    torch.save({key: {"a": W}, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "last.ckpt")
    assert list(read_state_dict(str(tmp_path / "last.ckpt"))[1]) == ["a"]
