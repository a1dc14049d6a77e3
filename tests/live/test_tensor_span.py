"""The bytes of a live tensor: those that torch would save, however it lies, and a reason where there are none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from tiecheck.files.compare.spans import OpaqueError
from tiecheck.live.memory import MemorySpan, open_tensor

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@given(SHAPES, DTYPES, st.sampled_from(["plain", "turned", "every second"]), st.integers(0, 40), st.integers(0, 40))
def test_the_bytes_are_those_of_a_saved_file(shape, dtype, form: str, offset: int, count: int) -> None:
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    if form == "turned" and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1)
    if form == "every second" and tensor.dim():
        tensor = tensor[::2]
    raw = save({"x": tensor.contiguous()})
    raw = raw[8 + int.from_bytes(raw[:8], "little") :]
    span = MemorySpan(tensor)
    assert span.nbytes == len(raw)
    assert span.read(offset, count) == raw[offset : offset + count]
    assert (MemorySpan(tensor).place == span.place) or not tensor.is_contiguous() or not raw


def test_a_tensor_is_opened_by_its_name_with_its_header() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    stored, span = open_tensor(model, "0.weight")
    assert (stored.name, stored.dtype, stored.shape, stored.nbytes) == ("0.weight", "float32", (3, 2), 24)
    assert span.read(0, 24) == model[0].weight.detach().numpy().tobytes()


@pytest.mark.parametrize(
    ("model", "name", "why"),
    [
        (nn.Linear(2, 2), "gone", "is no tensor of the module"),
        (nn.Linear(2, 2, device="meta"), "weight", "on meta, without values"),
        (nn.LazyLinear(2), "weight", "weight"),
    ],
)
def test_what_has_no_bytes_is_told(model: nn.Module, name: str, why: str) -> None:
    with pytest.raises(OpaqueError, match=why):
        open_tensor(model, name)
