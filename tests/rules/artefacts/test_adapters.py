"""TIE605 against what peft names: the members whose module is saved or targeted, by the end of its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from rule_failures import codes, llama

import tiecheck
from tiecheck.records.files import BesideAdapter
from tiecheck.rules.artefacts.adapters import AdapterAppliedOnLoad
from tiecheck.rules.cases import EMBEDDING, HEAD, llama_group

pytestmark = pytest.mark.filterwarnings("ignore")

FILES = ("adapter_config.json", "adapter_model.safetensors")
MODULES = ("lm_head", "embed_tokens", "model.embed_tokens", "q_proj", "tokens", "head", "mbed_tokens")


def found(saved: tuple[str, ...], targets: tuple[str, ...]) -> list:
    return list(AdapterAppliedOnLoad().check((llama_group(),), BesideAdapter(saved, targets, None, FILES)))


@given(st.lists(st.sampled_from(MODULES), max_size=3), st.lists(st.sampled_from(MODULES), max_size=3))
def test_a_module_is_named_by_the_end_of_its_path_at_a_dot(saved: list[str], targets: list[str]) -> None:
    ends = {HEAD: {"lm_head"}, EMBEDDING: {"embed_tokens", "model.embed_tokens"}}
    hit = {name for name, words in ends.items() if words & {*saved, *targets}}
    drafts = found(tuple(saved), tuple(targets))
    assert {name for draft in drafts for name in draft.names} == hit
    assert len(drafts) == bool(hit)


@pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
                                     {"target_modules": ["lm_head"]}])  # fmt: skip
def test_an_adapter_that_peft_saved_beside_the_model_is_told(options: dict, tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    assert codes(tmp_path) == []
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).save_pretrained(tmp_path)
    (finding,) = tiecheck.check(tmp_path).findings
    assert (finding.code, finding.names) == ("TIE605", (HEAD,))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_an_adapter_of_other_layers_is_left_alone(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert codes(tmp_path) == []
    assert torch.is_tensor(model.lm_head.weight)


@pytest.mark.parametrize("word", ["modules_to_save", "target_modules"])
def test_a_config_without_weights_stops_the_load_until_it_lies_elsewhere(word: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    llama().save_pretrained(tmp_path)
    config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=str(tmp_path), **{word: ["q_proj"]})
    config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    (finding,) = tiecheck.check(tmp_path).findings
    assert (finding.code, finding.severity) == ("TIE605", "warning")
    (edit,) = finding.edits
    assert "adapter/adapter_config.json" in str(edit)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter_config.json").rename(tmp_path / "adapter" / "adapter_config.json")
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert codes(tmp_path) == []
