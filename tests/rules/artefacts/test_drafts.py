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
from tiecheck.rules.artefacts.drafts import DraftModelWithoutItsHead
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
    return [f.severity for f in tiecheck.check(where, **options).findings if f.code == DraftModelWithoutItsHead.code]


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
    tensors |= {"d2t": torch.zeros(32, dtype=torch.long)} if rows == 32 else {}
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
    assert told(tmp_path) == ["info"] * bool(moved)  # vLLM and SGLang put the model's own in its place
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
    tensors = {"embed_tokens.weight": ROWS, "d2t": torch.zeros(32, dtype=torch.long)}
    tensors |= {"lm_head.weight": ROWS[:32] + 1} if stored else {}
    where = write(tmp_path / "draft", tensors, architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=32)
    config, checkpoint = read_config(str(where)), read_checkpoint(str(where))
    assert config is not None
    assert checkpoint is not None
    found = find_draft_problems(DraftModel(config, None), checkpoint, values=True)
    assert [one.kind for one in found] == ([] if stored else ["no head"])
    assert all(isinstance(one, DraftProblem) and one.comparison is None for one in found)


def whole_map(rows: int) -> torch.Tensor:
    return torch.arange(rows) * 2 - torch.arange(rows)


def target_ids(tensors: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    """What vLLM, SGLang and speculators make of a draft's ids: the stored offsets, zeros where there are none."""
    mapping = torch.zeros(rows, dtype=torch.long)
    mapping[:] = tensors.get("d2t", mapping)
    return torch.arange(rows) + mapping


@pytest.mark.parametrize("name", ["LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", None])
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("rows", [16, 32, 64])
def test_a_reduced_vocabulary_without_its_map_is_told(
    rows: int, mapped: bool, name: str | None, tmp_path: Path
) -> None:
    tensors = {"embed_tokens.weight": ROWS, "lm_head.weight": ROWS[:rows] + 1}
    tensors |= {"d2t": whole_map(rows)} if mapped else {}
    kind = {"architectures": [name]} if name else {"speculators_model_type": "peagle", "architectures": ["X"]}
    where = write(tmp_path / "draft", tensors, draft_vocab_size=rows, tie_word_embeddings=False, **kind)
    meant = torch.arange(rows) * 2 if rows < 64 else torch.arange(rows) + (whole_map(rows) if mapped else 0)
    assert told(where) == ["error"] * (not torch.equal(target_ids(tensors, rows), meant))
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | {"draft_vocab_size": 24}))
    assert told(where).count("error") >= 1  # a head that the config denies does not load


def test_drafts_that_borrow_all_are_left_alone(tmp_path: Path) -> None:
    for name, tensors, config in (
        ("dflash", {"fc.weight": ROWS}, {"speculators_model_type": "dflash", "draft_vocab_size": 64}),
        ("mtp", {"mtp.fc.weight": ROWS}, {"speculators_model_type": "mtp"}),
        ("eagle", {"embed_tokens.weight": ROWS, "fc.weight": ROWS}, {"architectures": ["LlamaForCausalLMEagle"]}),
        ("vlm", {"model.embed_tokens.weight": ROWS}, {"architectures": ["Eagle2_5_VLForConditionalGeneration"]}),
    ):
        assert told(write(tmp_path / name, tensors, **config)) == []


@pytest.mark.parametrize("name", ["LlamaForCausalLMEagle", "EagleLlamaForCausalLM"])
@pytest.mark.parametrize("moved", [None, "embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_an_eagle_draft_borrowed_is_held_against_its_target(
    tied: bool, moved: str | None, name: str, tmp_path: Path
) -> None:
    model = llama(tied=tied)
    model.save_pretrained(tmp_path / "target")
    tensors = {"embed_tokens.weight": model.model.embed_tokens.weight, "lm_head.weight": model.lm_head.weight}
    tensors = {key: value.detach() + (0.5 if key == moved else 0) for key, value in tensors.items()}
    where = write(tmp_path / "draft", tensors, architectures=[name])
    assert told(where, drafts_for=str(tmp_path / "target")) == ["warning"] * bool(moved)


class MedusaHeads(nn.ModuleList):
    """Heads as medusa-llm 0.1 builds, names, saves and loads them."""

    def __init__(self, count: int, layers: int) -> None:
        def block() -> nn.Module:
            made = nn.Module()
            made.linear = nn.Linear(16, 16)
            return made

        super().__init__(
            nn.Sequential(*(block() for _ in range(layers)), nn.Linear(16, 64, bias=False)) for _ in range(count)
        )


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("stored", [0, 1, 3, 4])
def test_heads_of_medusa_that_are_not_stored_are_told(stored: int, layers: int, tmp_path: Path) -> None:
    torch.save(MedusaHeads(stored, layers).state_dict(), tmp_path / "medusa_lm_head.pt")
    config = {"medusa_num_heads": 3, "medusa_num_layers": layers, "base_model_name_or_path": "org/base"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = torch.load(tmp_path / "medusa_lm_head.pt", weights_only=True)
    lost = MedusaHeads(3, layers).load_state_dict(loaded, strict=False).missing_keys
    found = [f for f in tiecheck.check(tmp_path).findings if f.code == "TIE606"]
    heads = tuple(key for key in lost if key.endswith(f".{layers}.weight"))
    assert [f.names for f in found] == ([heads] if heads and stored else [])


@pytest.mark.parametrize("moved", [True, False])
def test_the_embedding_of_longcats_draft_layer_is_the_models(moved: bool, tmp_path: Path) -> None:
    model = llama(tied=False)
    model.config.num_nextn_predict_layers = 1
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.mtp.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + moved
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert told(tmp_path) == ["info"] * moved
