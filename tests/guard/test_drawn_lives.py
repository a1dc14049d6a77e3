"""`tiecheck.guard` over drawn lives of a tied GPT: silent while the head is the table by identity, else the line."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lives import BREAK, GPT, KEEP, UnfitError, grow, is_tied, load, step
from tie_kinds import marked_line
from torch import nn
from torch.ao.quantization import quantize_dynamic

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSALS = (UnfitError, AttributeError, RuntimeError, TypeError)
"""What an operation raises on what an earlier one left: a head that is wrapped, on meta, packed, without its weight."""


def refusals(row: list[Callable[[Any], None]]) -> dict[int, type[Exception]]:
    """Number of each operation of a row that raises where nobody watches, with what it raises."""
    model, found = GPT(), {}
    for number, do in enumerate(row):
        try:
            do(model)
        except REFUSALS as error:
            found[number] = type(error)
    return found


def told(row: list[Callable[[Any], None]]) -> tuple[Any, Any]:
    """Live a row of operations under a guard: the first that broke the tie by identity, and what is raised."""
    model, culprit = GPT(), None
    refused = refusals(row)
    assert is_tied(model)
    try:
        with tiecheck.guard(model) as g:
            for number, do in enumerate(row):
                was = is_tied(model)
                try:
                    do(model)
                except REFUSALS as error:
                    if refused.get(number) is not type(error):  # the guard's doing
                        raise
                if is_tied(model):
                    culprit = None
                    assert g.verify() == (), do.__name__
                elif was:
                    culprit = do
    except tiecheck.TieBroken as broken:
        return culprit, broken
    return culprit, None


def lived(row: list[Callable[[Any], None]]) -> None:
    """Hold the word of a guard over a row of operations against identity."""
    culprit, broken = told(row)
    words = [do.__name__ for do in row]
    assert (culprit is None) == (broken is None), (words, str(broken))
    if broken is not None:
        (one,) = broken.broken
        assert one.seen
        assert (one.since.path, one.since.line) == (inspect.getfile(culprit), marked_line(culprit)), words
        assert one.operation
        assert "site-packages" not in str(broken)


@pytest.mark.parametrize("do", [*KEEP, *BREAK], ids=lambda do: do.__name__)
def test_each_alone(do: Callable[[Any], None]) -> None:
    lived([do])


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(n, marks=pytest.mark.slow) for n in range(24, 400))])
def test_what_keeps_the_tie_is_silent_and_the_first_break_is_blamed(seed: int) -> None:
    draw = random.Random(seed)
    row = draw.choices(KEEP, k=draw.randint(2, 6 if seed < 24 else 12))
    lived(row if seed % 4 == 0 else [*row, draw.choice(BREAK), *draw.choices((step, load, grow), k=draw.randint(0, 2))])


def test_a_quantised_copy_that_comes_back_is_told_and_the_way_out_is_silent() -> None:
    model = GPT()
    with pytest.raises(tiecheck.TieBroken, match="Leave that layer out") as caught, tiecheck.guard(model) as g:
        made = g.watch(quantize_dynamic(model, {nn.Linear}))
    assert "form of its own" in str(caught.value)
    assert g.report.findings[0].code == "TIE401"
    config = torch.ao.quantization.default_dynamic_qconfig
    with tiecheck.guard(model) as g:  # what the advice says: the layers are named, and the head is not
        made = g.watch(quantize_dynamic(model, {"blocks": config}))
    assert made.lm_head.weight is made.wte.weight


def test_a_scripted_model_is_watched() -> None:
    model = GPT()
    with tiecheck.guard(model) as g:
        g.watch(torch.jit.script(model))
