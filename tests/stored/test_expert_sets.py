"""Experts of which one lacks what the others have."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tiecheck.api import check
from tiecheck.live.rehearsal import rehearse
from tiecheck.rules.cases import sharded_checkpoint
from tiecheck.stored.expert_sets import MOST, lacking_expert


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


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "olmoe"])
@pytest.mark.parametrize("tied", [True, False, None], ids=["tied", "untied", "no head"])
def test_a_load_that_cannot_join_its_experts_is_no_pass(model_type: str, tied: bool | None, tmp_path: Path) -> None:
    import transformers

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
