"""TIE312 and TIE313: tied members that were meant to differ, or read through something on one side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from live_failures import found, gpt, said, small_llama
from torch import nn
from torch.nn.utils import parametrizations, prune

import tiecheck
from tiecheck.rules.live.freezes import RequiresGradSurprise
from tiecheck.rules.live.members import TiedButNotEffective


def test_requires_grad_on_a_module_freezes_nothing() -> None:
    model = small_llama()
    model.lm_head.requires_grad = False
    assert model.lm_head.weight.requires_grad
    assert found(model) == {RequiresGradSurprise.code: "warning"}
    model.lm_head.requires_grad_(False)
    assert found(model) == {RequiresGradSurprise.code: "info"}, "now the embedding is frozen as well, and it alone"


def test_training_the_head_alone_trains_the_embedding() -> None:
    model = small_llama()
    model.requires_grad_(False)
    assert found(model) == {}
    model.lm_head.requires_grad_(True)
    assert model.model.embed_tokens.weight.requires_grad
    assert found(model) == {RequiresGradSurprise.code: "info"}


def test_casting_the_head_casts_the_embedding() -> None:
    model = small_llama().bfloat16()
    assert found(model) == {}
    model.lm_head.float()
    assert model.model.embed_tokens.weight.dtype is torch.float32
    assert found(model) == {RequiresGradSurprise.code: "info"}


def test_pruning_one_side_of_a_tie() -> None:
    model = small_llama()
    prune.l1_unstructured(model.lm_head, "weight", 0.5)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert found(model)[TiedButNotEffective.code] == "error"
    assert model.lm_head.weight_orig is model.model.embed_tokens.weight


def test_pruning_by_a_mask_of_ones_changes_nothing() -> None:
    model = small_llama()
    prune.identity(model.lm_head, "weight")
    assert found(model) == {}


def test_the_old_spectral_norm_on_one_side() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    nn.utils.spectral_norm(model["head"])
    assert found(model) == {TiedButNotEffective.code: "error"}


def test_a_parametrization_without_an_inverse_on_one_side() -> None:
    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    nn.utils.parametrize.register_parametrization(model["head"], "weight", Twice())
    assert found(model) == {TiedButNotEffective.code: "error"}


def test_weight_norm_makes_two_parameters_over_one_memory() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    model["head"].weight = model["emb"].weight
    parametrizations.weight_norm(model["head"])
    assert found(model) == {"TIE302": "error"}


def test_a_parametrization_that_transposes_for_its_layer_is_meant() -> None:
    class Transpose(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight.t()

    model = nn.ModuleDict({"enc": nn.Linear(8, 3, bias=False), "dec": nn.Linear(3, 8, bias=False)})
    model["dec"].weight = model["enc"].weight
    nn.utils.parametrize.register_parametrization(model["dec"], "weight", Transpose(), unsafe=True)
    assert model["dec"](model["enc"](torch.ones(1, 8))).shape == (1, 8)
    assert found(model) == {TiedButNotEffective.code: "info"}
    assert "adapter" not in said(model, TiedButNotEffective.code)


class Same(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


class Double(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize("build", [small_llama, lambda: gpt(tied=True)])
@pytest.mark.parametrize("table", [None, Same, Double])
@pytest.mark.parametrize("head", [None, Same, Double])
def test_only_different_weights_of_one_tensor_are_an_error(
    build: Callable[[], Any], table: type[nn.Module] | None, head: type[nn.Module] | None
) -> None:
    model = build()
    embedding = model.model.embed_tokens if hasattr(model, "model") else model.wte
    for part, way in ((embedding, table), (model.lm_head, head)):
        if way is not None:
            nn.utils.parametrize.register_parametrization(part, "weight", way(), unsafe=True)
    same = torch.equal(embedding.weight, model.lm_head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert (TiedButNotEffective.code in found(model)) == (not same)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_spectral_norm_on_both_sides_is_one_weight_and_stays_as_it_was() -> None:
    model = gpt(tied=True).train()
    for part in (model.wte, model.lm_head):
        torch.manual_seed(0)
        parametrizations.spectral_norm(part)
    state = model.lm_head.parametrizations.weight[0]._u.clone()
    assert found(model) == {}
    assert torch.equal(state, model.lm_head.parametrizations.weight[0]._u), "no power iteration was made"


@pytest.mark.filterwarnings("ignore")  # peft warns of what is done here, and transformers of peft
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"modules_to_save": ["lm_head"]}, "separates the two"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "separates the two"),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ""),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, ""),
        ({"target_modules": ["lm_head"]}, "would change"),
    ],
)
def test_what_is_said_of_an_adapter_is_what_its_merge_does(options: dict[str, Any], says: str) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(small_llama(), LoraConfig(**({"r": 2, "target_modules": ["q_proj"]} | options)))
    told = [f.message for f in tiecheck.check(adapted).findings if f.code == TiedButNotEffective.code]
    assert len(told) == bool(says)
    assert all(says in message for message in told)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    merged = adapted.merge_and_unload()
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == (says != "separates the two")
    assert merged.config.tie_word_embeddings == (says != "separates the two")
