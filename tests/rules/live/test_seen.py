"""TIE303 and TIE304: ties that other tools do not see, or that nobody declares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from live_failures import Direct, Outer, config, found, reloaded, said, small_llama
from torch import nn

import tiecheck
from tiecheck.rules.live.seen import ModuleAlias, UndeclaredTie


def accelerate_018_to_033(model: nn.Module) -> list[str]:
    """The aliases that accelerate's walk of 0.18 to 0.33 saw: children once a parent, parameters once a child."""
    catalogue = {name for name, _ in model.named_parameters()}
    found = []

    def walk(module: nn.Module, prefix: str) -> None:
        found.extend(prefix + n for n, _ in module.named_parameters() if prefix + n not in catalogue)
        for name, child in module.named_children():
            walk(child, f"{prefix}{name}.")

    for name, child in model.named_children():
        walk(child, f"{name}.")
    return found


class TestAlias:
    """TIE303: what it says of accelerate, against accelerate's walk as it was and as it is."""

    @staticmethod
    def model(*, siblings: bool) -> nn.Module:
        model = nn.Module()
        model.transformer = nn.ModuleDict({"wte": nn.Embedding(8, 4), "ln": nn.LayerNorm(4)})
        (model.transformer if siblings else model).add_module("ff_out", model.transformer["wte"])
        return model

    @pytest.mark.parametrize(("siblings", "says"), [(True, "before 0.34 reports nothing"), (False, "in every version")])
    def test_alias_and_who_sees_it(self, siblings: bool, says: str) -> None:
        from accelerate.utils import find_tied_parameters

        model = self.model(siblings=siblings)
        (finding,) = tiecheck.check(model).findings
        assert (finding.code, finding.severity) == (ModuleAlias.code, "info")
        assert says in finding.message
        assert bool(accelerate_018_to_033(model)) == (not siblings)
        assert len(find_tied_parameters(model)) == 1, "the installed one sees both"


def test_a_tie_that_nobody_declares_cannot_be_saved(tmp_path: Path) -> None:
    model = small_llama()
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight = attention.q_proj.weight
    assert found(model) == {UndeclaredTie.code: "warning"}
    assert "save_pretrained raises RuntimeError" in said(model, UndeclaredTie.code)
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


def test_an_inner_models_tie_is_lost_where_the_outer_does_not_hear_of_it(tmp_path: Path) -> None:
    outer = Outer(config())
    assert found(outer) == {UndeclaredTie.code: "warning"}
    again, missing = reloaded(outer, tmp_path / "list")
    assert missing == {"parts.0.lm_head.weight"}
    assert not torch.equal(again.parts[0].lm_head.weight, outer.parts[0].lm_head.weight)

    direct = Direct(config())
    assert found(direct) == {}
    again, missing = reloaded(direct, tmp_path / "direct")
    assert missing == set()
    assert again.part.lm_head.weight is again.part.model.embed_tokens.weight


def test_a_tie_in_a_plain_module_is_nobodys_to_declare() -> None:
    plain = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    plain["b"].weight = plain["a"].weight
    assert found(plain) == {}


@pytest.mark.parametrize(
    ("loaders", "severity"),
    [("accelerate==0.33", "warning"), ("accelerate==1.15", "info"), ("vllm", "info")],
)
def test_an_alias_among_siblings_matters_to_who_plans_with_an_old_accelerate(loaders: str, severity: str) -> None:
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.ff_out = model.wte
    assert found(model) == {ModuleAlias.code: "info"}
    assert found(model, judge_for=loaders) == {ModuleAlias.code: severity}
    apart = nn.ModuleDict({"inner": nn.ModuleDict({"wte": nn.Embedding(8, 4)})})
    apart["ff_out"] = apart["inner"]["wte"]
    assert found(apart, judge_for=loaders) == {ModuleAlias.code: "info"}, (
        "an alias across parents is seen by every version"
    )


def test_an_alias_that_is_also_reached_by_another_parent_is_seen_by_every_accelerate() -> None:
    model = nn.Module()
    layer = nn.Linear(4, 4)
    model.box = nn.ModuleList([layer] * 3)
    model.dec = nn.Module()
    model.dec.box = model.box
    assert not [f for f in tiecheck.check(model).findings if "reports nothing" in f.message]


def replicated(model: nn.Module) -> nn.Module:
    """A layer that stands twice, with the parameters of one: what a replication leaves."""
    import copy

    layers = model.model.layers
    made = copy.deepcopy(layers[0])
    for name, parameter in layers[0].named_parameters():
        owner, _, attribute = name.rpartition(".")
        setattr(made.get_submodule(owner), attribute, parameter)
    layers.append(made)
    return model


def test_one_replicated_layer_is_one_finding_and_its_fixes_work(tmp_path: Path) -> None:
    model = replicated(small_llama())
    (finding,) = (one for one in tiecheck.check(model).findings if one.code == UndeclaredTie.code)
    assert len(finding.names) == 18
    assert "8 more pairs" in finding.message
    for edit in finding.edits:
        model = replicated(small_llama())
        declared = dict(type(model)._tied_weights_keys)
        for step in edit.steps:
            if step.kind == "run-python":
                exec(step.code, {"model": model})
            else:
                type(model)._tied_weights_keys = {**declared, **eval(step.code.partition("=")[2])}
        try:
            assert not [one for one in tiecheck.check(model).findings if one.code == UndeclaredTie.code], edit.choice
        finally:
            type(model)._tied_weights_keys = declared
    with pytest.raises(RuntimeError, match="shared tensors"):
        replicated(small_llama()).save_pretrained(tmp_path)


def test_ties_of_two_causes_stay_two_findings() -> None:
    model = replicated(small_llama())
    model.model.norm.weight = model.model.layers[0].input_layernorm.weight
    found = [one for one in tiecheck.check(model).findings if one.code == UndeclaredTie.code]
    assert len(found) == 2
