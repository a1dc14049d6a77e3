"""Names as their user writes them: the code of a mend reaches what it names, whatever holds it."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mend_runs import carry_out, judged
from torch import nn

KEYS = st.sampled_from(["a", "0", "10", "a-b", "class", "weights", "x y"])


def linear() -> nn.Module:
    return nn.Linear(3, 3, bias=False)


@st.composite
def holders(draw: Any, depth: int = 2) -> Any:
    """Makes a module that holds another made one: in a list, a dictionary, by an attribute, or as a parameter."""
    way = draw(st.sampled_from(["list", "sequence", "dict", "attribute", "parameters", "keyed parameters", "itself"]))
    key, before = draw(KEYS), draw(st.integers(0, 2))
    if way == "parameters":
        return lambda: nn.ParameterList([nn.Parameter(torch.randn(3, 3)) for _ in range(before + 1)])
    if way == "keyed parameters":
        return lambda: nn.ParameterDict({key: nn.Parameter(torch.randn(3, 3))})
    if way == "itself" or not depth:
        return linear
    inner = draw(holders(depth - 1))
    if way == "dict":
        return lambda: nn.ModuleDict({key: inner()})
    if way == "attribute":
        return lambda: attribute(inner())
    kind = nn.ModuleList if way == "list" else lambda held: nn.Sequential(*held)
    return lambda: kind([*(nn.Identity() for _ in range(before)), inner()])


class Root(nn.ModuleDict):
    """A class of its own, for the contract."""


def attribute(held: nn.Module) -> nn.Module:
    model = nn.Module()
    model.part = held
    return model


@settings(max_examples=60, deadline=None, derandomize=True)
@given(holders(), holders())
def test_the_code_reaches_what_it_names(first: Any, second: Any) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Root({"one": first(), "7": second()})

    names = [name for name, _ in build().named_parameters()]
    pair = [next(n for n in names if n.startswith("one.")), next(n for n in names if n.startswith("7."))]
    (finding,) = judged(build(), ties=[pair])
    assert {edit.choice for edit in finding.edits} == set(pair)
    for choice in pair:
        carry_out(build, "TIE301", choice, ties=[pair])
