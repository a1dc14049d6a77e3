"""Expected groups against real ones, and the words of what is wrong."""

from __future__ import annotations

import pytest
from torch import nn

from tiecheck.guard.errors import TieBroken
from tiecheck.guard.tie_words import close_names, kind_text, quoted_names, untying_advice
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
    assert "copy.deepcopy" in untying_advice("module", "head.weight")
    assert "detach().clone()" in untying_advice("parameter", "head.weight")


def test_an_error_carries_each_broken_promise() -> None:
    broken = Broken("tie", ("a", "b"), "one tensor", "two", "tie them")
    error = TieBroken("a and b are two", (broken,))
    assert isinstance(error, AssertionError)
    assert error.broken == (broken,)
