"""What was found about the planners, each with the installed one: why they raise, and what they count twice."""

from __future__ import annotations

import pytest
import torch
from accelerate import infer_auto_device_map
from declared_models import Config, Declared, rewrapped
from planner_runs import counting_once, plans_of, total_bytes
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tiecheck.records.placement import Ask, Double

TIGHT: dict[int | str, int] = {0: 10**6, "cpu": 10**6}
ASK = Ask("sequential", TIGHT)


def tied_pair(first: str, second: str) -> nn.Module:
    """An embedding and a head of one Parameter, under some names."""
    model = nn.Module()
    model.add_module(first, nn.Embedding(8, 4))
    model.add_module(second, nn.Linear(4, 8, bias=False))
    model.get_submodule(second).weight = model.get_submodule(first).weight
    return model


def crash_of(model: nn.Module, ask: Ask = ASK):
    """The crash that is told, after the planner itself has raised it."""
    with pytest.raises(IndexError):
        infer_auto_device_map(model, max_memory=dict(ask.memory), no_split_module_classes=list(ask.no_split or ()))
    plan = plans_of(model, ask)[0]
    assert plan.device_map == {}
    assert plan.crash.error == "IndexError: list index out of range"
    return plan.crash


def test_finding_2a_an_alias_among_siblings():
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.ff_out = model.wte
    crash = crash_of(model)
    assert crash.cause == "sibling"
    assert crash.module == "wte"
    assert crash.names == ("ff_out.weight", "wte.weight")


@pytest.mark.parametrize(("first", "second"), [("head", "lm_head"), ("emb", "out_emb"), ("a", "ba")])
def test_finding_2b_a_name_inside_a_name(first, second):
    crash = crash_of(tied_pair(first, second))
    assert crash.cause == "substring"
    assert crash.module == second
    assert crash.names == tuple(sorted([f"{first}.weight", f"{second}.weight"]))


@pytest.mark.parametrize(("first", "second"), [("lm_head", "head"), ("out_emb", "emb"), ("ba", "a"), ("emb", "head")])
def test_finding_2b_the_other_order_works(first, second):
    (plan,) = plans_of(tied_pair(first, second), ASK)
    assert plan.crash is None
    assert plan.device_map == {"": 0}


@pytest.mark.parametrize(("label", "raises"), [("t", True), ("transformer", False)])
def test_finding_2b_an_alias_across_parents(label, raises):
    model = nn.Module()
    inner = nn.Module()
    inner.wte = nn.Embedding(8, 4)
    model.add_module(label, inner)
    model.ff_out = inner.wte
    if raises:
        crash = crash_of(model)
        assert (crash.cause, crash.module) == ("substring", "ff_out")
    else:
        (plan,) = plans_of(model, ASK)
        assert plan.crash is None


def test_finding_2c_two_names_on_the_root():
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(3))
    model.v = model.w
    crash = crash_of(model)
    assert (crash.cause, crash.module, crash.names) == ("root", "w", ("v", "w"))


def test_transformers_raises_alike_on_a_declared_alias():
    model = Declared(Config(tie_word_embeddings=True))
    model.head = nn.Linear(4, 8, bias=False)
    model.lm_head = nn.Linear(4, 8, bias=False)
    model.all_tied_weights_keys = {"lm_head.weight": "head.weight"}
    plans = {plan.tool: plan for plan in plans_of(model, ASK)}
    crash = plans["transformers"].crash
    assert crash.error == "IndexError: list index out of range"
    assert (crash.cause, crash.module) == ("substring", "lm_head")
    model.all_tied_weights_keys = {"nothing.weight": "emb.weight"}
    crash = {plan.tool: plan for plan in plans_of(model, ASK)}["transformers"].crash
    assert (crash.cause, crash.module) == ("other", "emb")  # there is no such name at all
    model.alias = model.emb
    model.all_tied_weights_keys = {"alias.weight": "emb.weight"}
    crash = {plan.tool: plan for plan in plans_of(model, ASK)}["transformers"].crash
    assert (crash.cause, crash.module) == ("sibling", "emb")


def test_a_chain_of_ties_raises_too():
    """The second module goes with the first; the third looks for it in vain. Not among the findings."""
    model = nn.Module()
    model.first, model.second, model.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    model.second.weight, model.third.bias = model.first.weight, model.second.bias
    crash = crash_of(model)
    assert (crash.cause, crash.module, crash.names) == ("other", "third", ("second.bias", "third.bias"))


def test_a_parameter_of_a_module_that_was_split_raises_too():
    """It stands in no module that is in line, as one on the root does. Not among the findings."""
    model = nn.Module()
    model.emb = nn.Embedding(8, 4)
    model.block = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model.block.w = model.emb.weight
    ask = Ask("sequential", {0: 7000, "cpu": 10**6})
    crash = crash_of(model, ask)
    assert (crash.cause, crash.names) == ("other", ("block.w", "emb.weight"))
    assert plans_of(model, ASK)[0].crash is None


def test_finding_4_the_warning_needs_that_there_is_no_group_at_all():
    model = Declared(Config(tie_word_embeddings=True))
    rewrapped(model)
    (plan, _) = plans_of(model, ASK)
    assert any(text.startswith("The model weights are not tied.") for text in plan.logged)
    model.one, model.two = nn.Linear(4, 4), nn.Linear(4, 4)
    model.two.weight = model.one.weight  # the head is as untied as before
    (plan, _) = plans_of(model, ASK)
    assert plan.crash is None
    assert not any(text.startswith("The model weights are not tied.") for text in plan.logged)


def twice_tied(rest: int = 0) -> nn.Module:
    """Two layers with weight and bias in common: two ties, one module."""
    model = nn.Module()
    model.one, model.two = nn.Linear(32, 32), nn.Linear(32, 32)
    model.two.weight, model.two.bias = model.one.weight, model.one.bias
    model.two.register_parameter("own", nn.Parameter(torch.empty(1000)))
    if rest:
        model.rest = nn.Linear(rest, 1, bias=False)
    return model


def test_finding_10_a_module_is_counted_once_for_each_tie():
    model = twice_tied()
    real = total_bytes(model)
    (plan,) = plans_of(model, Ask("sequential", {0: 10**6, "cpu": 10**6}))
    assert plan.doubles == (Double("one", "cuda:0", ("two.bias", "two.weight"), real + 4000, real),)
    assert plan.counted == {"cuda:0": real + 4000}
    assert plan.moved == {}


def test_finding_10_and_something_else_has_to_move_for_it():
    model = twice_tied(rest=500)
    total = total_bytes(model)
    # With `two` twice 12,224 of 17,000 bytes are counted as taken, and 4,000 are kept free for the largest layer.
    ask = Ask("sequential", {0: 17_000, "cpu": 10**6})
    (plan,) = plans_of(model, ask)
    assert dict(plan.device_map) == dict(infer_auto_device_map(model, max_memory=dict(ask.memory)))
    assert plan.device_map["rest"] == "cpu"
    assert plan.moved == {"rest": ("cpu", "cuda:0")}
    with counting_once():
        assert dict(infer_auto_device_map(model, max_memory=dict(ask.memory))) == {"": 0}
    assert total + 4000 < ask.memory[0]


def test_transformers_counts_a_tied_module_once():
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    total = total_bytes(model)
    plans = plans_of(model, Ask("auto", {0: 10**6, "cpu": 10**6}))
    assert [plan.tool for plan in plans] == ["accelerate", "transformers"]
    for plan in plans:
        assert plan.counted == {"cuda:0": total}
        assert plan.doubles == ()
        assert plan.logged == ()


def test_a_class_that_does_not_call_post_init():
    class Bare(Declared):
        def post_init(self) -> None:
            """Leave out what transformers 5 asks every class to call."""

    plans = plans_of(Bare(Config(tie_word_embeddings=True)), ASK)
    assert [plan.tool for plan in plans] == ["accelerate", "transformers"]
    assert plans[1].crash.error == "AttributeError: 'Bare' object has no attribute 'all_tied_weights_keys'"
