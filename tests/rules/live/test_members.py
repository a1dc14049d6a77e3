"""TIE312 and TIE313: tied members that were meant to differ, or read through something on one side."""

from __future__ import annotations

import torch
from live_failures import found, said, small_llama
from torch import nn
from torch.nn.utils import parametrizations, prune

from tiecheck.rules.live.members import RequiresGradSurprise, TiedButNotEffective


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
