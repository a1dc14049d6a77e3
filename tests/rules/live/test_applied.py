"""TIE301, TIE302 and TIE314 on models that the libraries took apart, and sound models beside them."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import init_empty_weights
from live_failures import EMBEDDING, HEAD, found, gpt, small_llama
from rule_failures import codes, llama
from torch import nn
from torch.optim.swa_utils import AveragedModel

import tiecheck
from tiecheck.rules.live.applied import DeclaredTieNotApplied, HalfMetaTie, StorageOnlyTie


def assign(model: nn.Module) -> nn.Module:
    """L01: every name gets a tensor of its own."""
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return model


def emptied(model: nn.Module) -> nn.Module:
    """L02: built on meta, then given memory name by name."""
    with torch.device("meta"):
        fresh = type(model)(model.config)
    fresh.to_empty(device="cpu")
    fresh.load_state_dict(model.state_dict())
    return fresh


def copied(model: nn.Module) -> nn.Module:
    """M03: a hand-written loader that copies where it should share."""
    model.lm_head = copy.deepcopy(model.lm_head)
    return model


def converted(model: nn.Module) -> nn.Module:
    """L04: a conversion that makes a new parameter for each registration, as `.to(xla)` does."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def replaced(model: nn.Module) -> nn.Module:
    """M02: the embedding is swapped, the head stays behind."""
    model.model.embed_tokens = nn.Embedding(64, 16)
    return model


class TestLive:
    @pytest.mark.parametrize("breaking", [assign, emptied, copied, converted, replaced])
    def test_declared_tie_that_something_took_apart(self, breaking) -> None:
        assert codes(breaking(llama())) == [f"{DeclaredTieNotApplied.code} error"]

    @pytest.mark.parametrize("breaking", [assign, emptied, copied, converted])
    def test_tie_weights_mends_it(self, breaking) -> None:
        model = breaking(llama())
        model.tie_weights()
        assert codes(model) == []

    @pytest.mark.parametrize(
        "share",
        [
            lambda m: setattr(m.lm_head.weight, "data", m.model.embed_tokens.weight.data),
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.model.embed_tokens.weight)),
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.model.embed_tokens.weight.detach())),
        ],
        ids=["data", "new-parameter", "detach"],
    )
    @pytest.mark.parametrize("tied", [True, False], ids=["flag-true", "flag-false"])
    def test_memory_is_shared_and_the_parameter_is_not(self, share, tied: bool) -> None:
        model = llama(tied=False)
        model.config.tie_word_embeddings = tied
        share(model)
        assert codes(model) == [f"{StorageOnlyTie.code} error"]
        loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
        loss.backward()
        assert model.lm_head.weight.grad is not model.model.embed_tokens.weight.grad, "two gradients: not tied"

    def test_tied_autoencoder_by_a_transposed_parameter(self) -> None:
        model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        model[1].weight = nn.Parameter(model[0].weight.t())
        assert codes(model) == [f"{StorageOnlyTie.code} error"]

    def test_weight_norm_after_tying(self) -> None:
        model = llama()
        nn.utils.parametrizations.weight_norm(model.lm_head)
        report = tiecheck.check(model, select=StorageOnlyTie.code)
        (finding,) = report.findings
        assert "weight_norm" in finding.message
        assert "lm_head.parametrizations.weight.original1" in finding.names

    def test_init_empty_weights_makes_a_storage_tie_on_meta_that_is_only_a_note(self) -> None:
        with init_empty_weights():
            model = transformers.LlamaForCausalLM(llama().config)
        assert f"{StorageOnlyTie.code} error" not in codes(model)


def test_a_model_that_was_tied_on_meta_and_loaded_by_one_name() -> None:
    whole = small_llama()
    state = {name: value for name, value in whole.state_dict().items() if name != HEAD}
    with torch.device("meta"):
        model = small_llama()
    model.load_state_dict(state, assign=True, strict=False)
    assert model.lm_head.weight.is_meta
    out = F.linear(torch.ones(1, 16), model.lm_head.weight)
    assert not out.is_meta, "torch returns memory that nobody wrote"
    assert found(model) == {HalfMetaTie.code: "error"}
    model.tie_weights()
    assert found(model) == {}


def test_what_accelerate_offloads_is_looked_up_in_its_map(tmp_path: Path) -> None:
    from accelerate import cpu_offload, disk_offload

    model = small_llama()
    cpu_offload(model, execution_device="cpu")
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert model.lm_head.weight.is_meta
    assert found(model) == {}
    (tie,) = tiecheck.check(model).targets[0].ties
    assert (tie.kind, "accelerate" in (tie.reason or "")) == ("parameter", True)

    model = small_llama()
    disk_offload(model, tmp_path, execution_device="cpu")
    (report,) = tiecheck.check(model).targets
    assert (report.findings, report.status) == ((), "unknown")
    assert report.ties[0].kind == "unknown", "two files with equal bytes, written from one tensor or from two"

    for change in (torch.ones_like, torch.clone):
        broken = small_llama()
        broken.lm_head.weight = nn.Parameter(change(broken.lm_head.weight.detach()))
        cpu_offload(broken, execution_device="cpu")
        assert found(broken) == {DeclaredTieNotApplied.code: "error"}


def wrapped() -> list[Any]:
    return [
        pytest.param(torch.compile, id="compile"),
        pytest.param(nn.DataParallel, id="DataParallel"),
        pytest.param(AveragedModel, id="AveragedModel"),
        pytest.param(lambda model: AveragedModel(torch.compile(model)), id="two of them"),
    ]


@pytest.mark.parametrize("wrap", wrapped())
def test_wrappers_do_not_hide_a_broken_tie_and_names_are_the_users(wrap: Any) -> None:
    model = small_llama()
    assert found(wrap(model)) == {}
    tiecheck.assert_tied(wrap(copy.deepcopy(model)), HEAD, EMBEDDING)
    model.lm_head.weight = nn.Parameter(torch.ones(32, 16))
    (report,) = tiecheck.check(wrap(model)).targets
    (finding,) = report.findings
    assert (finding.code, finding.names) == (DeclaredTieNotApplied.code, (HEAD, EMBEDDING))
    assert report.architecture == "LlamaForCausalLM"
    assert [tie.names for tie in report.ties] == [(HEAD, EMBEDDING)]


def test_a_contract_of_the_users_own_is_held() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    assert found(model) == {}
    assert found(model, ties=[["emb.weight", "head.weight"]]) == {DeclaredTieNotApplied.code: "error"}
    model["head"].weight = model["emb"].weight
    assert found(model, ties=[["emb.weight", "head.weight"]]) == {}


def test_a_contract_holds_wherever_its_class_stands() -> None:
    ties = {"MyGPT": [["lm_head.weight", "wte.weight"]]}
    for wrap in (nn.Sequential, torch.compile, lambda model: nn.ModuleDict({"model": model}), nn.DataParallel):
        assert found(wrap(gpt(tied=True)), ties=ties) == {}
        assert found(wrap(gpt(tied=False)), ties=ties) == {DeclaredTieNotApplied.code: "error"}


def test_a_head_that_was_taken_away_for_its_features_is_no_wrong_declaration(tmp_path: Path) -> None:
    model = small_llama()
    model.lm_head = nn.Identity()
    assert found(model) == {}
    model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("wrap", "call"),
    [
        (lambda model: model, "model.tie_weights()"),
        (nn.DataParallel, "model.module.tie_weights()"),
        (lambda model: nn.ModuleDict({"lm": model}), "model.lm.tie_weights()"),
    ],
)
def test_the_mend_can_be_called_on_what_was_checked(wrap: Any, call: str) -> None:
    inner = small_llama()
    inner.lm_head.weight = nn.Parameter(inner.lm_head.weight.detach().clone())
    model = wrap(inner)
    (finding,) = tiecheck.check(model).findings
    assert f"`{call}`" in finding.help
    eval(call.replace("model.lm.", "model['lm'].") if isinstance(model, nn.ModuleDict) else call, {"model": model})
    assert found(model) == {}


def test_one_model_over_anothers_memory_is_one_finding_and_frozen_ones_speak_of_no_gradient() -> None:
    import copy

    import tiecheck

    for frozen in (False, True):
        one = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        both = nn.ModuleDict({"policy": one, "reference": copy.deepcopy(one)})
        for mine, theirs in zip(both.policy.parameters(), both.reference.parameters(), strict=True):
            theirs.data = mine.data
        both.requires_grad_(not frozen)
        (finding,) = tiecheck.check(both).findings
        assert (finding.code, len(finding.names)) == ("TIE302", 8)
        assert finding.severity == ("info" if frozen else "error")
        assert ("gradient" in finding.message) == (not frozen)
        for step in finding.edits[0].steps:
            exec(step.code, {"model": both})
        assert not [one for one in tiecheck.check(both).findings if one.code == "TIE302"]


@pytest.mark.parametrize("seed", range(8))
def test_a_buffer_over_a_parameter_is_told_until_it_has_a_memory_of_its_own(seed: int) -> None:
    draw = random.Random(seed)
    model = nn.ModuleDict({name: nn.Linear(5, 7, bias=False) for name in "abcd"})
    lender, borrower = draw.sample("abcd", 2)
    held = model[lender].weight.detach()
    how = draw.choice(("same", "turned", "clone", "disjoint"))
    if how == "disjoint":
        whole = torch.randn(14, 5)
        model[lender].weight, held = nn.Parameter(whole[:7]), whole[7:]
    del model[borrower].weight
    model[borrower].register_buffer("weight", {"clone": held.clone(), "turned": held.t()}.get(how, held))
    names = tuple(sorted(f"{name}.weight" for name in (lender, borrower)))
    told = [f.names for f in tiecheck.check(model).findings if f.code == "TIE302"]
    assert told == ([names] if how in ("same", "turned") else [])
    model.double()
    assert [f.code for f in tiecheck.check(model).findings if f.severity != "info"] == []
