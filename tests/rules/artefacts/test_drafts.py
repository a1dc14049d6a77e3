"""TIE606 on drafts and draft layers, held against a minimal draft of transformers' base class.

What SGLang does with an EAGLE-3 draft is read in its source (0.5.23); it is not run here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rule_failures import llama
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

import tiecheck
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.records.artefacts import DraftModel, DraftProblem
from tiecheck.stored.drafts import find_draft_problems

ROWS = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
CONFIG = {"model_type": "llama", "hidden_size": 16, "vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


class TinyDraft(PreTrainedModel):
    config_class = LlamaConfig
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, getattr(config, "draft_vocab_size", 64), bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def write(where: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    where.mkdir()
    (where / "config.json").write_text(json.dumps(CONFIG | config))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, where / "model.safetensors", {"format": "pt"})
    return where


def told(where: Path, **options: Any) -> list[str]:
    """Severities of TIE606."""
    return [f.severity for f in tiecheck.check(where, **options).findings if f.code == "TIE606"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("tied", [True, False, None])
@pytest.mark.parametrize("rows", [None, 32, 64])
def test_a_draft_is_told_as_its_class_would_load(
    rows: int | None, tied: bool | None, nested: bool, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": rows or 64}
    flags = {} if tied is None else {"tie_word_embeddings": tied}
    inner = {"speculators_model_type": "eagle3", "transformer_layer_config": {**CONFIG, **flags}}
    tensors = {"embed_tokens.weight": ROWS} | ({"lm_head.weight": ROWS[:rows] + 1} if rows else {})
    where = write(tmp_path / "draft", tensors, **config, **(inner if nested else flags))
    loaded = LlamaConfig(**CONFIG, draft_vocab_size=rows or 64, tie_word_embeddings=bool(tied))
    model = TinyDraft(loaded)
    try:
        lost = set(model.load_state_dict(tensors, strict=False).missing_keys)
    except RuntimeError as error:
        lost = {str(error)}
    if model.lm_head.weight is model.embed_tokens.weight:
        lost.discard("lm_head.weight")
    assert told(where) == ["error"] * bool(lost)


def test_a_draft_that_takes_the_head_of_its_target_is_left_alone(tmp_path: Path) -> None:
    where = write(tmp_path / "draft", {"embed_tokens.weight": ROWS}, architectures=["LlamaForCausalLMEagle3"])
    assert told(where) == []


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("moved", [None, "embed_tokens.weight", "shared_head.head.weight"])
def test_a_stale_copy_in_a_draft_layer_is_told(moved: str | None, tied: bool, tmp_path: Path) -> None:
    model = llama(tied=tied)
    model.config.num_nextn_predict_layers = 1
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    layer = {"embed_tokens.weight": embedding.clone(), "shared_head.head.weight": model.lm_head.weight.detach().clone()}
    if moved:
        layer[moved][5] += 1
    tensors |= {f"model.layers.1.{name}": tensor for name, tensor in layer.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert told(tmp_path) == ["warning"] * bool(moved)
    assert told(tmp_path, values="never") == []


def test_a_borrowed_embedding_is_held_against_its_target(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "target")
    embedding = load_file(tmp_path / "target/model.safetensors")["model.embed_tokens.weight"]
    config = {"architectures": ["LlamaForCausalLMEagle3"]}
    same = write(tmp_path / "same", {"embed_tokens.weight": embedding}, **config)
    fresh = write(tmp_path / "fresh", {"embed_tokens.weight": embedding + 0.5}, **config)
    target = str(tmp_path / "target")
    assert told(same, drafts_for=target) == []
    assert told(fresh) == []
    assert told(fresh, drafts_for=target) == ["warning"]
    (error,) = tiecheck.check(fresh, drafts_for=str(tmp_path / "nothing")).errors
    assert "nothing" in error.message


@pytest.mark.parametrize("stored", [True, False])
def test_the_problem_of_a_draft_without_its_head_is_named(stored: bool, tmp_path: Path) -> None:
    tensors = {"embed_tokens.weight": ROWS} | ({"lm_head.weight": ROWS[:32] + 1} if stored else {})
    where = write(tmp_path / "draft", tensors, architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=32)
    config, checkpoint = read_config(str(where)), read_checkpoint(str(where))
    assert config is not None
    assert checkpoint is not None
    found = find_draft_problems(DraftModel(config, None), checkpoint, values=True)
    assert [one.kind for one in found] == [] if stored else ["no head"]
    assert all(isinstance(one, DraftProblem) and one.comparison is None for one in found)
