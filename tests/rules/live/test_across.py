"""TIE319: policies, references and averages made as people make them; the fix is executed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rule_failures import llama
from tie_kinds import Param
from torch import nn
from torch.optim.swa_utils import AveragedModel

import tiecheck

SHARED = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")


def found(model: nn.Module, other: nn.Module) -> dict[str, Any]:
    report = tiecheck.check(model, beside=[other], select=["TIE319"])
    assert not report.errors
    return {finding.severity: finding for finding in report.findings}


def ran(finding: Any, model: nn.Module, other: nn.Module) -> list[nn.Module]:
    beside = [other]
    for step in finding.edits[0].steps:
        exec(step.code, {"model": model, "beside": beside})
    return beside


def reference(policy: Any, how: str, *, frozen: bool = True) -> Any:
    ref = copy.deepcopy(policy).requires_grad_(False)
    for name in SHARED:
        parameter, mine = policy.get_parameter(name), ref.get_parameter(name)
        parameter.requires_grad_(not frozen)
        if how == "data":
            mine.data = parameter.data
        elif how == "object":
            owner, _, attribute = name.rpartition(".")
            setattr(ref.get_submodule(owner), attribute, parameter)
    return ref


def test_a_sharing_that_is_wanted_is_told_and_no_finding() -> None:
    policy = llama()
    for how, words in (("data", "one memory by different"), ("object", "share the object")):
        finding = found(policy, reference(policy, how))
        assert set(finding) == {"info"}
        assert words in finding["info"].message
        assert tiecheck.check(policy, beside=reference(policy, how)).targets[0].status == "pass"


def test_a_sharing_that_shares_nothing_is_told() -> None:
    policy = llama()
    ref = reference(policy, "nothing")
    finding = found(policy, ref)["info"]
    assert "held twice" in finding.message
    assert set(finding.names) == {*SHARED, "lm_head.weight"}, "all names of a tie, or the other's own breaks"
    ran(finding, policy, ref)
    assert ref.lm_head.weight is ref.model.embed_tokens.weight
    assert "share the object" in found(policy, ref)["info"].message


def test_a_reference_that_moves_with_the_policy() -> None:
    policy = llama()
    ref = reference(policy, "data", frozen=False)
    finding = found(policy, ref)["warning"]
    before = ref.lm_head.weight.clone()
    ids = torch.arange(4)[None]
    policy(ids, labels=ids).loss.backward()
    torch.optim.SGD(policy.parameters(), lr=1.0).step()
    assert not torch.equal(before, ref.lm_head.weight), "it moved"
    ran(finding, policy, ref)
    assert not found(policy, ref)


@pytest.mark.parametrize("wrapped", ["policy", "reference"])
@pytest.mark.parametrize("how", ["data", "nothing"])
def test_each_of_the_two_is_reached_through_its_own_wrapper(how: str, wrapped: str) -> None:
    policy = Param().requires_grad_(how == "data")
    ref = copy.deepcopy(policy).requires_grad_(False)
    if how == "data":
        ref.emb.weight.data = policy.emb.weight.data
    one = nn.DataParallel(policy) if wrapped == "policy" else policy
    other = nn.DataParallel(ref) if wrapped == "reference" else ref
    (finding,) = found(one, other).values()
    ran(finding, one, other)
    assert ref.emb.weight is ref.lin.weight
    assert (ref.emb.weight is policy.emb.weight) == (how == "nothing")
    assert set(found(one, other)) <= {"info"}


def test_a_shallow_copy_is_no_copy() -> None:
    policy = llama()
    ref = copy.copy(policy)
    finding = found(policy, ref)["warning"]
    (made,) = ran(finding, policy, ref)
    assert not found(policy, made)


def test_copies_and_averages_are_silent() -> None:
    policy = llama()
    assert not found(policy, copy.deepcopy(policy))
    assert not found(policy, copy.deepcopy(policy).requires_grad_(False).eval())
    average = AveragedModel(policy)
    average.update_parameters(policy)
    assert not found(policy, average)
    assert not found(policy, llama())


def test_an_actor_and_a_critic_over_one_body_are_a_note() -> None:
    body = nn.Linear(4, 4)
    actor, critic = nn.Sequential(body, nn.Linear(4, 2)), nn.Sequential(body, nn.Linear(4, 1))
    assert set(found(actor, critic)) == {"info"}
