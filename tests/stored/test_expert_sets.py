"""Experts of which one lacks what the others have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tiecheck.api import check
from tiecheck.live.rehearsal import rehearse
from tiecheck.records.files import BesideAdapter
from tiecheck.rules.cases import sharded_checkpoint
from tiecheck.stored.expert_sets import MOST, adapter_problems, lacking_expert


def expert(layer: int, number: int, last: str = "up.weight") -> str:
    return f"layers.{layer}.mlp.experts.{number}.{last}"


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        ([expert(0, 0), expert(0, 1), expert(0, 0, "down"), expert(0, 1, "down")], None),
        ([expert(0, 0), expert(0, 1), expert(0, 0, "down")], expert(0, 1, "down")),
        ([expert(0, 0), expert(0, 1), expert(1, 0)], None),  # a layer may have fewer
        (["model.experts.gate_up_proj", "lm_head.weight"], None),
    ],
)
def test_the_expert_that_lacks_something(names: list[str], lacking: str | None) -> None:
    assert lacking_expert(sharded_checkpoint({"one": tuple(names)})) == lacking


def test_of_more_names_than_are_looked_at_nothing_is_said() -> None:
    names = [expert(0, number) for number in range(MOST)]
    assert lacking_expert(sharded_checkpoint({"one": (*names[1:], expert(0, 1, "down"))})) is not None
    assert lacking_expert(sharded_checkpoint({"one": (*names, expert(0, 1, "down"))})) is None


def test_what_an_adapter_without_weights_does_to_the_load_is_not_told_as_if_it_was_not_there() -> None:
    alone = BesideAdapter((), ("q_proj",), None, ("adapter_config.json",))
    (told,) = adapter_problems(alone)
    assert (told.versions, told.outcome) == (("4.57", "5"), "unknown")
    assert list(adapter_problems(alone._replace(files=("adapter_config.json", "adapter_model.safetensors")))) == []
    (told,) = adapter_problems(alone._replace(targets=(expert(0, 1, "up_proj"),), files=("adapter_model.bin",)))
    assert told.versions == ("5",)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "olmoe"])
@pytest.mark.parametrize("tied", [True, False, None], ids=["tied", "untied", "no head"])
def test_a_load_that_cannot_join_its_experts_is_no_pass(model_type: str, tied: bool | None, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": tied is True}
    config = transformers.AutoConfig.for_model(model_type, **sizes, **heads, num_local_experts=4, num_experts=4)
    auto = transformers.AutoModel if tied is None else transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path)
    assert (
        check(str(tmp_path), ignore=["TIE701"], judge_for=["transformers"]).targets[0].status == "pass"
    )  # which has untrained models
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if ".experts.2." in name)
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert rehearse(str(tmp_path)).raised
    (report,) = check(str(tmp_path), ignore=["TIE701"], judge_for=["transformers"]).targets
    assert report.status == "unknown"
    assert gone in (report.reason or "")


@pytest.mark.parametrize("model_type", ["mixtral", "mellum"])
def test_an_adapter_of_one_expert_is_no_pass_for_a_class_that_joins_them(model_type: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64}
    made = transformers.AutoConfig.for_model(model_type, **sizes, **heads, num_local_experts=4, num_experts=4)
    transformers.AutoModelForCausalLM.from_config(made).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if ".experts.0." in name)
    module, (rows, columns) = name.removesuffix(".weight"), tensors[name].shape
    lora = {"lora_A": torch.ones(1, columns), "lora_B": torch.ones(rows, 1)}
    there = {f"base_model.model.{module}.{key}.weight": value for key, value in lora.items()}
    save_file(there, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module], "base_model_name_or_path": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises((RuntimeError, ValueError)):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    (report,) = check(str(tmp_path), ignore=["TIE701"], judge_for=["transformers==5"]).targets
    assert (report.status, module in (report.reason or "")) == ("unknown", True)
