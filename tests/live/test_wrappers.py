"""What wraps a model does not change its ties, its names or its class for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from transformers import LlamaConfig, LlamaForCausalLM

import tiecheck
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.wrappers import UserNames, class_name, without_wrappers
from tiecheck.records.report import TargetReport

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of tied models, and transformers of what peft calls

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def llama() -> Any:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True)
    )


def untie(model: Any) -> Any:
    model.lm_head.weight = nn.Parameter(torch.ones(32, 16))
    return model


def judged(model: nn.Module) -> TargetReport:
    (report,) = tiecheck.check(model).targets
    assert report.errors == ()
    return report


def codes(report: TargetReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        lambda model: torch.compile(DistributedDataParallel(model)),
        lambda model: (fully_shard(model), model)[1],
        lambda model: (fully_shard(model.model.layers[0]), fully_shard(model), model)[2],
    ],
    ids=["DDP", "compiled DDP", "FSDP2", "FSDP2 by layers"],
)
def test_data_parallel_wrappers(wrap: Any) -> None:
    report = judged(wrap(llama()))
    assert (codes(report), report.architecture) == ({}, "LlamaForCausalLM")
    assert [(tie.names, tie.kind) for tie in report.ties] == [((HEAD, EMBEDDING), "parameter")]
    broken = judged(wrap(untie(llama())))
    assert codes(broken) == {"TIE301": "error"}
    assert broken.findings[0].names == (HEAD, EMBEDDING)


@pytest.mark.usefixtures("group")
def test_fsdp2_splits_a_tie_that_is_sharded_apart() -> None:
    model = llama()
    fully_shard(model.lm_head)
    fully_shard(model)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert codes(judged(model)) == {"TIE504": "error"}, "TIE301 leaves it to the groups that are split"


def test_a_wrapper_deep_inside_is_left_out_of_the_names() -> None:
    model = llama()
    layer = model.model.layers[0]
    layer.self_attn.k_proj.weight = layer.self_attn.q_proj.weight
    model.model.layers[0] = checkpoint_wrapper(layer)
    names = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.q_proj.weight")
    assert names in [tie.names for tie in judged(model).ties]
    tiecheck.assert_tied(model, *names)


def test_an_averaged_model_keeps_its_own_buffer_apart() -> None:
    averaged = AveragedModel(llama())
    user = UserNames(ModuleGraph(averaged))
    assert user.of("module.lm_head.weight") == HEAD
    assert user.of("n_averaged") == "n_averaged"
    assert (class_name(averaged), without_wrappers(averaged)) == ("LlamaForCausalLM", averaged.module)


def test_a_module_that_only_has_a_part_of_the_name_is_no_wrapper() -> None:
    model = nn.ModuleDict({"module": nn.ModuleDict({"lm_head": nn.Linear(2, 2)})})
    assert UserNames(ModuleGraph(model)).of("module.lm_head.weight") == "module.lm_head.weight"


@pytest.mark.parametrize("target", ["q_proj", "lm_head"])
def test_lora(target: str) -> None:
    model = get_peft_model(llama(), LoraConfig(target_modules=[target]))
    report = judged(model)
    assert codes(report) == ({"TIE313": "info"} if target == "lm_head" else {})
    assert [(tie.names, tie.kind) for tie in report.ties] == [((HEAD, EMBEDDING), "parameter")]
    model.merge_adapter()
    assert codes(judged(model)) == {}


@pytest.mark.parametrize("saved", [["lm_head"], ["lm_head", "embed_tokens"]])
def test_modules_to_save_are_meant_to_differ_while_they_train(saved: list[str]) -> None:
    model = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], modules_to_save=saved))
    assert set(codes(judged(model)).values()) <= {"info"}


def test_a_broken_tie_below_an_adapter_is_found() -> None:
    model = get_peft_model(untie(llama()), LoraConfig(target_modules=["q_proj"]))
    assert codes(judged(model)) == {"TIE301": "error"}


def test_adapters_that_peft_ties_by_memory_are_a_note() -> None:
    config = LoraConfig(target_modules=["lm_head", "embed_tokens"], ensure_weight_tying=True)
    report = judged(get_peft_model(llama(), config))
    assert set(codes(report).values()) == {"info"}
    assert {tie.kind for tie in report.ties} == {"parameter", "storage"}


def test_the_names_that_are_reported_are_names_that_are_accepted() -> None:
    model = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    tiecheck.assert_tied(model, HEAD, EMBEDDING)
    tiecheck.assert_tied(model, f"base_model.model.{HEAD}", f"base_model.model.{EMBEDDING}")
    tiecheck.assert_ties_match(model, [[HEAD, EMBEDDING]])
    untied = get_peft_model(untie(llama()), LoraConfig(target_modules=["q_proj"]))
    (report,) = tiecheck.check(untied, ties={"LlamaForCausalLM": [[HEAD, EMBEDDING]]}, select="TIE301").targets
    assert {finding.names for finding in report.findings} == {(HEAD, EMBEDDING)}


def test_an_adapter_on_each_side_is_a_note() -> None:
    model = get_peft_model(llama(), LoraConfig(target_modules=["lm_head", "embed_tokens"]))
    assert codes(judged(model)) == {"TIE313": "info"}


@pytest.mark.usefixtures("group")
def test_the_mend_of_a_tie_that_fsdp2_split_names_the_one_call() -> None:
    model = llama()
    fully_shard(model.lm_head)
    (finding,) = judged(model).findings
    assert "fully_shard([model.lm_head, model.model.embed_tokens])" in finding.help
    assert "FSDPLlama" not in finding.message
