"""Several sets of weights in one directory: the one that transformers takes comes first."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tiecheck.records.words import Unknown
from tiecheck.rules.cases import EMBEDDING, HEAD, llama_group
from tiecheck.stored.layouts import find_layouts, layout_groups
from tiecheck.tables.architectures import load_architecture


def test_standard_names_come_in_the_order_of_from_pretrained() -> None:
    assert find_layouts(["pytorch_model.bin", "x.bin", "model.safetensors"]) == (
        "model.safetensors",
        "pytorch_model.bin",
    )
    assert find_layouts([]) == ()


def test_each_layout_says_how_it_stores_a_tie(tmp_path: Path) -> None:
    weight = torch.arange(8.0).reshape(4, 2)
    save_file({EMBEDDING: weight}, tmp_path / "model.safetensors")
    torch.save({EMBEDDING: weight, HEAD: weight + 1}, tmp_path / "pytorch_model.bin")
    files = ("model.safetensors", "pytorch_model.bin")
    llama = load_architecture("LlamaForCausalLM", "llama")
    (found,) = layout_groups(str(tmp_path), files, (llama_group(),), llama, "auto")
    assert not isinstance(found, Unknown)
    assert [view.stored for view in found.views] == ["absent", "separate"]


def test_a_layout_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing")
    llama = load_architecture("LlamaForCausalLM", "llama")
    answers = layout_groups(str(tmp_path), ("pytorch_model.bin",), (llama_group(),), llama, "auto")
    assert any(isinstance(answer, Unknown) for answer in answers)
