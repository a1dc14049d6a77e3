"""Names that are no class and mean one: as the library itself chooses a class by its model type."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

import tiecheck
from tiecheck.tables.class_names import class_hint, classes_of_type, meant_class

TASKS = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}


@pytest.mark.parametrize("auto", sorted(TASKS))
def test_an_auto_class_means_what_the_library_makes_of_it(auto: str) -> None:
    """Over every model type of the library: what is told is the class that the auto class makes, and never another."""
    told = 0
    for model_type, made in TASKS[auto].items():
        meant = meant_class(auto, model_type)
        names = made if isinstance(made, tuple) else (made,)
        assert meant is None or meant in names, model_type
        told += meant is not None
    assert told > 0.6 * len(TASKS[auto])


def test_a_spelling_means_the_class_of_its_model_type() -> None:
    draw = random.Random(4)
    types = draw.sample(sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), 40)
    for model_type in types:
        for name in classes_of_type(model_type):
            spelt = "".join(draw.choice([letter.upper(), letter.lower()]) for letter in name)
            others = [one for one in classes_of_type(model_type) if one.lower() == name.lower()]
            assert meant_class(spelt, model_type) == (name if len(others) == 1 else None)
            assert meant_class(f"{name}X", model_type) is None
    assert meant_class("LLaMAForCausalLM", "gpt2") is None


@pytest.mark.parametrize("written", ["LLaMAForCausalLM", "AutoModelForCausalLM"])
@pytest.mark.parametrize(("case", "status"), [("llama-healthy-tied", "pass"), ("llama-flag-lost", "fail")])
def test_it_is_judged_as_the_library_loads_it(
    tmp_path: Path, models: Path, written: str, case: str, status: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / case, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [written]}))
    assert AutoConfig.from_pretrained(folder).architectures == [written]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is transformers.LlamaForCausalLM
    (target,) = tiecheck.check(folder).targets
    assert (target.status, target.architecture) == (status, "LlamaForCausalLM")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (status == "pass")
    engines = {entry.outcome for entry in target.loaders if entry.loader in {"vllm", "sglang"}}
    if written.startswith("Auto"):
        assert engines <= {"unknown"}, "an engine goes by the name that is written"


def test_what_is_near_is_told_and_nothing_is_judged_by_it(tmp_path: Path, models: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / "llama-healthy-tied", folder)
    config = json.loads((folder / "config.json").read_text())
    for names, told in (
        (["LlamaForCasualLM"], "did you mean LlamaForCausalLM?"),
        ([], "a class of model type llama is LlamaForCausalLM"),
        (["MyOwnModel"], "its code was not run"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": names}))
        (target,) = tiecheck.check(folder).targets
        assert target.status == "unknown"
        assert told in str(target.reason)
    own = config | {"architectures": ["LLaMAForCausalLM"], "auto_map": {"AutoModelForCausalLM": "own.LLaMAForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(own))
    assert tiecheck.check(folder).targets[0].architecture == "LLaMAForCausalLM"
    assert class_hint("MyOwnModel", "llama") == class_hint(None, "none") == ""
