"""Names of a contract whose module was wrapped, moved or parametrised: what is said is true by identity."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rule_failures import gpt2, llama
from tiny_models import PlainNet
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import tiecheck
from tiecheck.live.moved_members import names_now

pytestmark = pytest.mark.filterwarnings("ignore")


class Deep(nn.Module):
    """The same, with its parts below a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = PlainNet()
        self.head = nn.Linear(8, 16)
        self.head.weight = self.body.emb.weight


class LoRA(nn.Module):
    """LoRA by hand over a layer."""

    def __init__(self, base: Any, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.weight.shape[1], rank), nn.Linear(rank, base.weight.shape[0])

    def forward(self, x: Any) -> Any:
        return self.base(x) + self.up(self.down(x))


class Own(nn.Module):
    """A wrapper that no library knows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = model


class Doubled(nn.Module):
    def forward(self, x: Any) -> Any:
        return 2 * x


MODELS: dict[Callable[[], Any], tuple[str, str]] = {
    PlainNet: ("emb.weight", "head.weight"),
    Deep: ("body.emb.weight", "head.weight"),
    llama: ("model.embed_tokens.weight", "lm_head.weight"),
    gpt2: ("transformer.wte.weight", "lm_head.weight"),
}

OWN: tuple[Callable[[Any], Any], ...] = (
    Own,
    nn.Sequential,
    lambda model: nn.ModuleDict({"policy": model, "value": nn.Linear(8, 1)}),
)
LIBRARY: tuple[Callable[[Any], Any], ...] = (
    torch.compile,
    nn.DataParallel,
    torch.optim.swa_utils.AveragedModel,
)


def lora(model: Any, name: str) -> None:
    setattr(model, name, LoRA(getattr(model, name)))


def in_a_list(model: Any, name: str) -> None:
    setattr(model, name, nn.Sequential(getattr(model, name), nn.Identity()))


INNER = (lora, in_a_list)
"""What a layer is wrapped in, of which the mend is an assignment."""


def part(model: Any, names: tuple[str, str]) -> None:
    owner, _, attribute = names[1].rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Parameter(model.get_parameter(names[1]).detach() + 1))


@pytest.mark.parametrize("seed", range(40))
def test_names_in_drawn_wrappers_are_judged_by_identity_and_the_fix_ends_it(seed: int) -> None:
    draw = random.Random(seed)
    build, names = draw.choice(list(MODELS.items()))
    model = build()
    tied = draw.random() < 0.5
    if not tied:
        part(model, names)
    table, weight = model.get_parameter(names[0]), model.get_parameter(names[1])
    if build in (PlainNet, Deep) and draw.random() < 0.7:  # of the others the class declares the name too, as it was
        draw.choice(INNER)(model, names[1].partition(".")[0])
    inner = draw.sample(LIBRARY, k=draw.choice((0, 0, 1)))
    outer = draw.sample(LIBRARY, k=draw.choice((0, 1)))
    for wrap in (*inner, *draw.sample(OWN, k=draw.randint(0, 2)), *outer):
        if not isinstance(model, torch._dynamo.OptimizedModule):
            model = wrap(model)
    if tied and not any(p is table for p in model.parameters()):
        table = weight = next(p for p in model.parameters() if p.shape == table.shape)  # an average is a copy
    report = tiecheck.check(model, ties=[names])
    assert (table is weight) is tied
    codes = {finding.code for finding in report.findings}
    assert ("TIE301" in codes) is not tied, (codes, names)
    assert "TIE309" not in codes
    if tied:
        assert report.targets[0].status == "pass", report.findings
        return
    if inner or isinstance(model, torch._dynamo.OptimizedModule):  # a fix is written for one that passes nothing on
        return
    (finding,) = [one for one in report.findings if one.code == "TIE301"]
    for step in finding.edits[0].steps:
        exec(step.code, {"model": model})
    assert "TIE301" not in {one.code for one in tiecheck.check(model, ties=[names]).findings}


def test_the_names_of_a_group_as_they_are_now() -> None:
    names = MODELS[PlainNet]
    model = PlainNet()
    assert names_now(model, names) == (names, None)
    assert names_now(model, ("emb.weigth", "head.weight")) == (("emb.weigth", "head.weight"), None), "as they were"
    lora(model, "head")
    assert names_now(Own(model), names) == (("net.emb.weight", "net.head.base.weight"), None)


def pruned(model: Any) -> None:
    prune.l1_unstructured(model.head, "weight", 0.5)


def doubled(model: Any) -> None:
    parametrize.register_parametrization(model.head, "weight", Doubled())


def both_doubled(model: Any) -> None:
    for layer in (model.emb, model.head):
        parametrize.register_parametrization(layer, "weight", Doubled(), unsafe=True)


def normed(model: Any) -> None:
    parametrizations.weight_norm(model.head)


def normed_as_of_old(model: Any) -> None:
    nn.utils.weight_norm(model.head)


@pytest.mark.parametrize(
    ("change", "code"),
    [(pruned, "TIE313"), (doubled, "TIE313"), (both_doubled, None), (normed, "TIE302"), (normed_as_of_old, "TIE302")],
    ids=lambda one: getattr(one, "__name__", None),
)
@pytest.mark.parametrize("wrap", [lambda model: model, Own, torch.compile], ids=["bare", "own", "compiled"])
def test_a_member_that_is_computed_is_known_by_what_it_is_computed_from(change: Any, code: Any, wrap: Any) -> None:
    model = PlainNet()
    change(model)
    report = tiecheck.check(wrap(model), ties=[MODELS[PlainNet]])
    assert [finding.code for finding in report.findings] == ([code] if code else [])
    apart = PlainNet()
    part(apart, MODELS[PlainNet])
    change(apart)
    (target,) = tiecheck.check(wrap(apart), ties=[MODELS[PlainNet]]).targets
    assert target.status == "unknown"
    assert "head" in str(target), "with the reason"


def test_what_may_be_meant_twice_is_unknown_with_the_reason() -> None:
    two = nn.ModuleDict({"student": PlainNet(), "teacher": PlainNet()})
    report = tiecheck.check(two, ties=[MODELS[PlainNet]])
    assert (report.targets[0].status, report.findings) == ("unknown", ())
    assert "student and teacher have all of these names" in " ".join(str(report).split())
    model = PlainNet()
    part(model, MODELS[PlainNet])
    model.head = nn.ModuleDict({"old": model.head, "new": nn.Linear(8, 16)})
    report = tiecheck.check(model, ties=[MODELS[PlainNet]])
    assert (report.targets[0].status, report.findings) == ("unknown", ())
    assert "head.old.weight and head.new.weight are in the place of `head.weight`" in " ".join(str(report).split())


def test_an_adapter_of_peft_keeps_the_names() -> None:
    for targets in (["q_proj"], ["head"]):
        model = get_peft_model(PlainNet(), LoraConfig(target_modules=targets))  # type: ignore[arg-type]  # any module will do
        report = tiecheck.check(Own(model), ties=[MODELS[PlainNet]])
        assert report.targets[0].status == "pass", report.findings


@pytest.mark.parametrize("names", [("emb.weigth", "head.weight"), ("emb.weight", "heads.weight"), ("a.b", "c.d")])
def test_a_name_that_is_nowhere_is_still_told(names: tuple[str, str]) -> None:
    for model in (PlainNet(), Own(PlainNet())):
        assert [f.code for f in tiecheck.check(model, ties=[names]).findings] == ["TIE309"]
