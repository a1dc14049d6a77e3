"""The Python doors: check on a path and on a module, find_ties, and that looking changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.config.options import Config
from tiecheck.errors import UsageError


class Tiny(nn.Module):
    """An embedding and a head, tied as wished."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(32, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 32, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.emb(ids)))


def test_check_takes_a_path(models: Path) -> None:
    report = tiecheck.check(models / "llama-diverged-head")
    assert [f.code for f in report.findings] == ["TIE101"]
    assert report.targets[0].status == "fail"


def test_check_takes_a_module_and_its_options() -> None:
    model = Tiny()
    model.head.weight = nn.Parameter(model.emb.weight)
    report = tiecheck.check(model)
    assert [f.code for f in report.findings] == ["TIE302"]
    assert report.targets[0].layers == ("live",)
    assert tiecheck.check(model, ignore="TIE302").findings == ()
    assert tiecheck.check(model, select=["TIE301"]).findings == ()


def test_unreadable_path_is_an_error_of_the_report(tmp_path: Path) -> None:
    report = tiecheck.check(tmp_path / "missing")
    assert report.targets[0].status == "error"
    assert "there is no" in report.errors[0].message


def test_wrong_options_are_told() -> None:
    with pytest.raises(UsageError):
        tiecheck.check(Tiny(), select="TIE999")
    with pytest.raises(TypeError):
        tiecheck.check(Tiny(), selct="TIE1")


@pytest.mark.parametrize(
    ("tie", "kind"),
    [
        (lambda m: setattr(m.head, "weight", m.emb.weight), "parameter"),
        (lambda m: setattr(m, "head", m.emb), "module"),
        (lambda m: setattr(m.head, "weight", nn.Parameter(m.emb.weight)), "storage"),
        (lambda m: setattr(m.head.weight, "data", m.emb.weight.data), "storage"),
        (lambda m: None, None),
        (lambda m: setattr(m.head, "weight", nn.Parameter(m.emb.weight.detach().clone())), None),
    ],
    ids=["weight", "module", "new-parameter", "data", "untied", "clone"],
)
def test_find_ties_kinds(tie, kind: str | None) -> None:
    model = Tiny()
    tie(model)
    assert [t.kind for t in tiecheck.find_ties(model)] == ([kind] if kind else [])


def test_looking_changes_nothing() -> None:
    model = Tiny().train()
    model.head.weight = model.emb.weight
    before = {name: (p.data_ptr(), p._version, p.requires_grad) for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    tiecheck.check(model)
    assert {name: (p.data_ptr(), p._version, p.requires_grad) for name, p in model.named_parameters()} == before
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert not model._forward_hooks


def test_public_names() -> None:
    assert set(tiecheck.__all__) <= set(dir(tiecheck))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tiecheck.nonsense  # noqa: B018


def test_the_public_names_are_those_of_their_modules() -> None:
    from tiecheck import api, testing

    for name in ("check", "inspect", "find_ties", "views", "count_parameters"):
        assert getattr(tiecheck, name) is getattr(api, name)
    for name in testing.__all__:
        assert getattr(tiecheck, name) is getattr(testing, name)
    with pytest.raises(AttributeError, match="no attribute 'assert_nothing'"):
        testing.assert_nothing  # noqa: B018


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"values": "maybe"}, "values= must be one of auto, never, always, not 'maybe'"),
        ({"fail_on": "bogus"}, "fail_on= must be one of info, warning, error, not 'bogus'"),
        ({"timeout": "x"}, "timeout= must be a number of seconds, 0 for no end, not 'x'"),
        ({"timeout": -1}, "timeout= must be a number of seconds"),
        ({"timeout": float("nan")}, "timeout= must be a number of seconds"),
        ({"timeout": True}, "timeout= must be a number of seconds"),
    ],
)
def test_a_value_that_is_no_word_of_its_option_is_told(models: Path, option: dict[str, Any], said: str) -> None:
    with pytest.raises(tiecheck.TiecheckError) as raised:
        tiecheck.check(models / "llama-healthy-tied", **option)
    assert str(raised.value).startswith(said)


OPTIONS = sorted(
    {*Config._fields, "optimizer", "beside", "config", "ties"} - {"inputs", "ties_from", "device_map_from"}
)
"""Keyword arguments of a check that are values of a kind; `inputs` may be anything."""


@pytest.mark.parametrize("option", OPTIONS)
def test_none_is_as_if_not_given(models: Path, option: str) -> None:
    target = tiecheck.check(models / "llama-healthy-tied", **{option: None}).targets[0]
    assert target.status == "pass", target.errors


@pytest.mark.parametrize("seed", range(12))
def test_a_value_of_another_kind_is_a_sentence(models: Path, seed: int) -> None:
    """Of a flag anything is true or false; of every other option a drawn value is refused, or told by the report."""
    draw, told = random.Random(seed), ""
    kinds = (3, 1.5, True, b"x", object(), [1], [None], {"a": object()})
    for option in (one for one in OPTIONS if not isinstance(Config._field_defaults.get(one), bool)):
        value = draw.choice(kinds)
        try:
            told = "; ".join(e.message for e in tiecheck.check(models / "llama-healthy-tied", **{option: value}).errors)
        except tiecheck.TiecheckError as error:
            told = str(error)
        assert "tiecheck itself failed" not in told, (option, value)
        assert " raised " not in told, (option, value)
