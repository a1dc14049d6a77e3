"""The class as it is built for a plan, against what the real `from_pretrained` plans for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lanes import sampled
from transformers import modeling_utils
from zoo import animal

from tiecheck.files.model_config import read_config
from tiecheck.live.transformers.loading import Planned, build_for_plan
from tiecheck.placement.planners.plans import plans_and_groups
from tiecheck.placement.planners.running import PlannerCase, run_planner
from tiecheck.records.placement import Ask
from tiecheck.records.words import Unknown
from tiecheck.tables.generate.classes import ClassCandidate

pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = [
    ("LlamaForCausalLM", "llama"),
    ("BertForMaskedLM", "bert"),
    ("T5ForConditionalGeneration", "t5"),
    ("GPT2LMHeadModel", "gpt2"),
    ("Gemma3ForConditionalGeneration", "gemma3"),
    ("WhisperForConditionalGeneration", "whisper"),
    ("MixtralForCausalLM", "mixtral"),
]


class Stop(Exception):  # noqa: N818
    """Ends a load once it has its plan."""


def planned_by_transformers(cls: Any, path: Path, monkeypatch: Any, *, stop: bool = True, **words: Any) -> Any:
    """The map that a real `from_pretrained` goes on with, and the model it planned for."""
    seen: list[Any] = []
    real = modeling_utils._get_device_map

    def spy(model, device_map, max_memory, hf_quantizer):
        found = real(model, device_map, max_memory, hf_quantizer)
        seen.append((dict(found), [(n, p.dtype, p.shape) for n, p in model.named_parameters(remove_duplicate=False)]))
        if stop:
            raise Stop
        return found

    monkeypatch.setattr(modeling_utils, "_get_device_map", spy)
    # What a map from cpu to disk breaks in a load that goes on is no question of the plan.
    broken = (NotImplementedError, KeyError, ValueError, RuntimeError)
    with contextlib.suppress(*((Stop,) if stop else broken)):
        cls.from_pretrained(path, local_files_only=True, **words)
    monkeypatch.undo()
    return seen[0]


def planned_by_us(built: Planned, ask: Ask) -> dict[str, Any]:
    """The map of our own run of transformers' planner."""
    return dict(run_planner(PlannerCase(built.module, "transformers", ask, built.quantizer)).plan.device_map)


def saved(name: str, model_type: str, path: Path, dtype: torch.dtype) -> Any:
    one = animal(ClassCandidate(name, model_type, ""))
    one.model(True).to(dtype).save_pretrained(path)
    return one.model_class


def memories(total: int) -> list[dict[int | str, int]]:
    """Memory that is enough, that makes two devices needed, and that sends a part to the disk."""
    return [
        {0: 2 * total, "cpu": 2 * total},
        {0: total // 2, 1: total, "cpu": total},
        {0: total // 3, 1: total // 3, "cpu": total // 3},
        {"cpu": total // 2},
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "model_type"), sampled(CLASSES))
def test_the_map_is_that_of_from_pretrained(name, model_type, dtype, tmp_path, monkeypatch):
    cls = saved(name, model_type, tmp_path, dtype)
    config = read_config(str(tmp_path))
    built = build_for_plan(str(tmp_path), config)
    assert isinstance(built, Planned), built
    assert built.quantizer is None
    assert built.dtype == str(dtype).removeprefix("torch.")
    total = sum(p.numel() * p.element_size() for p in built.module.parameters())
    maps = set()
    for memory in memories(total):
        for strategy in ("auto", "balanced_low_0", "sequential"):
            words = {"device_map": strategy, "max_memory": dict(memory)}
            real, parameters = planned_by_transformers(cls, tmp_path, monkeypatch, **words)
            assert planned_by_us(built, Ask(strategy, memory)) == real
            here = [(n, p.dtype, p.shape) for n, p in built.module.named_parameters(remove_duplicate=False)]
            assert here == parameters
            maps.add(json.dumps(real, sort_keys=True))
    assert len(maps) >= 3


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_load_that_is_not_stopped(name, tmp_path, monkeypatch):
    class_name = {t: n for n, t in CLASSES}[name]
    cls = saved(class_name, name, tmp_path / "model", torch.float32)
    built = build_for_plan(str(tmp_path / "model"), read_config(str(tmp_path / "model")))
    total = sum(p.numel() * p.element_size() for p in built.module.parameters())
    memory = {"cpu": int(total * 0.8)}
    words = {"device_map": "auto", "max_memory": dict(memory), "offload_folder": str(tmp_path / "offload")}
    real, _ = planned_by_transformers(cls, tmp_path / "model", monkeypatch, stop=False, **words)
    assert set(real.values()) == {"cpu", "disk"}
    assert planned_by_us(built, Ask("auto", memory)) == real


def test_a_dtype_that_is_asked_for(tmp_path, monkeypatch):
    cls = saved("LlamaForCausalLM", "llama", tmp_path, torch.float32)
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)), dtype="float16")
    assert built.dtype == "float16"
    memory = {0: 30_000, "cpu": 100_000}
    real, _ = planned_by_transformers(
        cls, tmp_path, monkeypatch, device_map="auto", max_memory=dict(memory), dtype=torch.float16
    )
    assert planned_by_us(built, Ask("auto", memory)) == real


def test_the_ties_are_declared_and_not_made(tmp_path):
    saved("LlamaForCausalLM", "llama", tmp_path, torch.float32)
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)))
    assert built.module.lm_head.weight is not built.module.model.embed_tokens.weight
    found = plans_and_groups(built.module, Ask("sequential", {"cpu": 10**9}))
    seen = {plan.tool: groups for plan, groups in found}
    assert seen == {"transformers": (("lm_head.weight", "model.embed_tokens.weight"),), "accelerate": ()}


def test_a_directory_without_weights_or_dtype(tmp_path):
    saved("LlamaForCausalLM", "llama", tmp_path, torch.float32)
    (tmp_path / "model.safetensors").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)))
    assert built.dtype == "float32"


def test_the_dtype_of_the_weights_where_the_config_names_none(tmp_path):
    saved("LlamaForCausalLM", "llama", tmp_path, torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert build_for_plan(str(tmp_path), read_config(str(tmp_path))).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("quantization", "library"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "aqlm"}, "aqlm"),
    ],
)
def test_a_quantiser_that_is_not_installed(quantization, library, tmp_path):
    saved("LlamaForCausalLM", "llama", tmp_path, torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)))
    assert isinstance(built, Unknown)
    assert built.reason.startswith(f"{library} is not installed")


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]},
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    ],
    ids=lambda one: one["quant_method"],
)
def test_a_quantiser_that_needs_no_library(quantization, tmp_path, monkeypatch):
    cls = saved("LlamaForCausalLM", "llama", tmp_path, torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)))
    assert isinstance(built, Planned), built
    assert built.quantizer.quantization_config.quant_method == quantization["quant_method"]
    for memory in ({0: 9_000, 1: 20_000, 2: 100_000}, {0: 9_000, 1: 9_000, 2: 9_000}):
        for strategy in ("auto", "sequential"):
            real, _ = planned_by_transformers(
                cls, tmp_path, monkeypatch, device_map=strategy, max_memory=dict(memory), dtype=torch.bfloat16
            )
            ask = Ask(strategy, memory)
            assert planned_by_us(built, ask) == real


def test_a_class_that_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "llama"}')
    built = build_for_plan(str(tmp_path), read_config(str(tmp_path)))
    assert isinstance(built, Unknown)
    assert "NoSuchModel" in built.reason
