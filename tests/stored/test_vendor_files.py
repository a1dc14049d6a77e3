"""A vendor's file beside the weights: only another embedding of the same shape and type is a problem."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.stored.layouts import vendor_problems

TABLE = torch.arange(32.0).reshape(8, 4)


@pytest.mark.parametrize(
    ("theirs", "told"),
    [(TABLE + 1, 1), (TABLE, 0), (TABLE.half(), 0), (torch.cat([TABLE, TABLE]), 0)],
    ids=["other values", "equal", "another type", "more rows"],
)
def test_other_values_alone_are_told(theirs: torch.Tensor, told: int, tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": TABLE}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file({"tok_embeddings.weight": theirs}, tmp_path / "consolidated.00.safetensors")
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint is not None
    names = ["model.safetensors", "consolidated.00.safetensors", "consolidated.txt"]
    assert len(list(vendor_problems(str(tmp_path), names, checkpoint))) == told


def test_a_vendors_file_that_is_broken_is_left_to_its_reader(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": TABLE}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "consolidated.safetensors").write_bytes(b"no header")
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint is not None
    assert list(vendor_problems(str(tmp_path), ["consolidated.safetensors"], checkpoint)) == []
