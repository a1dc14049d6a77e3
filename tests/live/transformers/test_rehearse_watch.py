"""The watch of a rehearsed load: tensors by header alone, equality as torch tells it, no other file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import modeling_utils

from tiecheck.live.transformers import rehearse_watch
from tiecheck.live.transformers.rehearse_bounds import OutsideError
from tiecheck.live.transformers.rehearse_watch import Watch, same_values

SHAPES = st.sampled_from([(), (0,), (1,), (7,), (3, 2), (5, 3, 2)])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@given(SHAPES, DTYPES, DTYPES, st.sampled_from(["same", "last", "nan"]), st.integers(1, 64))
def test_equality_is_torchs_own_after_the_cast_whatever_the_chunk(shape, stored, loaded, change, chunk: int) -> None:
    one = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape).to(stored)
    other = one.clone()
    if change != "same" and other.numel():
        other.view(-1)[-1] = float("nan") if change == "nan" else 1000
        if change == "nan":
            one.view(-1)[-1] = float("nan")
    kept, rehearse_watch.CHUNK = rehearse_watch.CHUNK, chunk
    try:
        exactly, alike = (same_values((one, loaded), (other, loaded), exact) for exact in (True, False))
    finally:
        rehearse_watch.CHUNK = kept
    assert exactly == torch.equal(one.to(loaded), other.to(loaded))
    assert alike == torch.equal(one.to(loaded).nan_to_num(), other.to(loaded).nan_to_num())


def test_tensors_of_two_shapes_are_not_equal() -> None:
    one = torch.zeros(3, 2)
    assert not same_values((one, one.dtype), (one[:2], one.dtype), True)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    tensors = {"a": torch.ones(4, 2), "b": torch.ones(4, 2), "c": torch.zeros(4, 2)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return Watch(str(tmp_path), True, modeling_utils)


def test_a_tensor_comes_out_on_meta_with_the_stored_shape_and_type(watch: Watch, tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    with watch.open(path) as file:
        assert sorted(file.keys()) == ["a", "b", "c"]
        whole, part = file.get_tensor("a"), file.get_slice("c")[1:3]
    assert (whole.is_meta, tuple(whole.shape), whole.dtype) == (True, (4, 2), torch.float32)
    assert (part.is_meta, tuple(part.shape)) == (True, (2, 2))
    assert watch.files == {"a": path, "c": path}


def test_loaded_parameters_are_compared_by_the_bytes_that_they_stand_for(watch: Watch, tmp_path: Path) -> None:
    held = {name: torch.empty(4, 2, device="meta") for name in "abc"}
    with watch.open(tmp_path / "model.safetensors") as file:
        for name, value in held.items():
            file.get_tensor(name)
            watch.loaded(name, value, ([name], name != "c"))
    a, b, c = (id(held[name]) for name in "abc")
    assert watch.equal(a, b) is True
    assert watch.equal(a, c) is None, "what was converted on the way stands for no stored bytes"
    watch.loaded("c", held["c"], (["c"], True))
    assert watch.equal(c, a) is False
    watch.values = False
    assert watch.equal(c, a) is None


def test_a_file_elsewhere_is_refused_and_a_link_of_the_hubs_cache_is_not(watch: Watch, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.safetensors"
    outside.touch()
    (tmp_path / "link.safetensors").symlink_to(outside)
    for path in (outside, tmp_path / "link.safetensors", f"{tmp_path}-beside/x.safetensors"):
        with pytest.raises(OutsideError, match="outside of the directory"):
            watch.inside(path)
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    blob = tmp_path / "models--a--b" / "blobs" / "f00"
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.touch()
    (snapshot / "model.safetensors").symlink_to(blob)
    assert Watch(str(snapshot), True, modeling_utils).inside(snapshot / "model.safetensors") == str(blob)
