"""TIE605 against what peft names: the members whose module is saved or targeted, by the end of its path."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from rule_failures import codes, llama
from safetensors.torch import save_file

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


BESIDE = ("config.json", "model.safetensors", "pytorch_model.bin", "value_head.safetensors", "checkpoint-5/",
          "new_embeddings.safetensors", "non_lora_trainables.bin", "0000100_adapters.safetensors",
          "training_args.bin")  # fmt: skip
"""What trl, LLaMA-Factory, unsloth, LLaVA, mlx-lm and trainers leave beside an adapter, and a merged model."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, the merged model, and the adapter that PEFT saved."""
    root = tmp_path_factory.mktemp("trained")
    llama().save_pretrained(root / "base")
    llama().save_pretrained(root / "merged")
    model = llama()
    model.name_or_path = str(root / "base")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        root / "adapter"
    )
    return root


@settings(max_examples=25, deadline=None)
@given(beside=st.sets(st.sampled_from(BESIDE)))
def test_what_lies_beside_an_adapter_makes_a_model_of_it_where_transformers_takes_one(
    beside: set[str], trained: Path
) -> None:
    from transformers import AutoModelForCausalLM

    here = trained / "here"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(trained / "adapter", here)
    for name in beside:
        if name.endswith("/"):
            shutil.copytree(trained / "adapter", here / name)
        elif name in {"config.json", "model.safetensors"}:
            shutil.copy(trained / "merged" / name, here)
        elif name == "pytorch_model.bin" and "config.json" in beside:
            torch.save(llama().state_dict(), here / name)
        elif name.endswith(".bin"):
            torch.save({"v_head.summary.weight": torch.ones(1, 2)}, here / name)
        else:
            save_file({"v_head.summary.weight": torch.ones(1, 2)}, here / name)
    found = trained / "base"
    with contextlib.suppress(OSError):  # it looks for the base in here, and PEFT takes it from elsewhere
        found = Path(AutoModelForCausalLM.from_pretrained(here).config._name_or_path)
    report = tiecheck.check(here, base=str(trained / "base") if found != here else None)
    assert (report.targets[0].type, report.targets[0].status) == ("checkpoint" if found == here else "adapter", "pass")
    if found != here:
        PeftModel.from_pretrained(llama(), here)


def test_a_folder_of_adapters_says_how_to_name_them(trained: Path) -> None:
    root = trained / "run"
    for step in (5, 10):
        shutil.copytree(trained / "adapter", root / f"checkpoint-{step}")
    (error,) = tiecheck.check(root).errors
    assert "--recursive" in error.message
    reports = tiecheck.check(root, recursive=True).targets
    assert [report.type for report in reports] == ["adapter", "adapter"]
