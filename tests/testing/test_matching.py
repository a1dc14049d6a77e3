"""Expected groups against real ones, and the words of what is wrong."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from tiecheck.guard.errors import TieBroken, close_names, kind_text, quoted_names, untying_advice
from tiecheck.records.placement import Broken
from tiecheck.testing.matching import differences_text, read_expected


def pair(*, tied: bool) -> nn.ModuleDict:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    if tied:
        model["head"].weight = model["emb"].weight
    return model


def test_groups_may_be_given_as_target_to_source() -> None:
    (chain,) = read_expected({"b": "a", "c": "b"})
    assert {*chain} == {"a", "b", "c"}
    assert read_expected([["a", "b"]]) == (("a", "b"),)
    with pytest.raises(ValueError, match="the expected ties"):
        read_expected([["a"]])


def test_only_what_differs_is_told() -> None:
    expected = (("emb.weight", "head.weight"),)
    assert differences_text(pair(tied=True), expected, buffers=False) == ""
    assert "1 missing" in differences_text(pair(tied=False), expected, buffers=False)
    assert "emb.weight" in differences_text(pair(tied=True), (), buffers=False)


def test_words() -> None:
    assert close_names(pair(tied=True), "head.weigth") == "; did you mean `head.weight` or `emb.weight`?"
    assert close_names(pair(tied=True), "zzzzzzzzzzzz") == ""
    assert quoted_names(["a", "b"]) == "`a`, `b`"
    assert kind_text("unknown", "it is offloaded") == "found unknown: it cannot be told: it is offloaded"
    assert "detach().clone()" in untying_advice(pair(tied=True), "parameter", "head.weight", "emb.weight")


@pytest.mark.parametrize("deep", [False, True])
def test_the_advice_on_one_module_parts_it(*, deep: bool) -> None:
    inside: nn.Module = nn.Linear(2, 2, bias=False)
    block = nn.Sequential(inside) if deep else inside
    model = nn.ModuleDict({"heads": nn.ModuleList(nn.Sequential(*([block] * 2)) for _ in range(2))})
    names = [f"heads.{i}.{j}.{'0.' * deep}weight" for i, j in ((0, 0), (0, 1), (1, 0))]
    advice = untying_advice(model, "module", names[0], names[1])
    target, _, value = advice.partition(": ")[2].partition(" = ")
    exec(f"{target} = {value}", {"copy": copy, "model": _Subscripted(model)})
    assert model.get_parameter(names[0]) is not model.get_parameter(names[1])
    assert model.get_parameter(names[1]) is model.get_parameter(names[2])


class _Subscripted:
    """A `ModuleDict` by attributes, as the advice writes paths."""

    def __init__(self, held: nn.ModuleDict) -> None:
        self.heads = held["heads"]


def test_an_error_carries_each_broken_promise() -> None:
    broken = Broken("tie", ("a", "b"), "one tensor", "two", "tie them")
    error = TieBroken("a and b are two", (broken,))
    assert isinstance(error, AssertionError)
    assert error.broken == (broken,)
