"""`g.watch`: a model is known in anyone's wrappers, and its break is told although nobody holds it any more."""

from __future__ import annotations

import copy
import functools
import io
import random
import warnings
import weakref
from typing import Any

import pytest
import torch
from lives import GPT
from torch import nn

import tiecheck
from tiecheck.guard.errors import TieWarning
from tiecheck.guard.remembered_ties import remember_ties
from tiecheck.guard.renamed_copies import renamed_ties
from tiecheck.guard.watched_ties import WatchedTie
from tiecheck.records.life import UserLine


class Own(nn.Module):
    """A wrapper that no library knows, as DDP is one, with a loss beside the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model
        self.loss = nn.CrossEntropyLoss()


def bare(model: nn.Module) -> nn.Module:
    return model


WRAPPERS = (bare, Own, nn.Sequential, nn.DataParallel, torch.compile, lambda model: nn.ModuleDict({"net": model}))


def own_head(model: Any) -> Any:
    model.lm_head = copy.deepcopy(model.lm_head)
    return model


@pytest.mark.parametrize("seed", range(8))
def test_a_broken_model_is_told_in_any_wrappers_and_when_nobody_holds_it_any_more(seed: int) -> None:
    draw = random.Random(seed)
    wraps = [WRAPPERS[seed % len(WRAPPERS)], *draw.choices(WRAPPERS, k=draw.randint(0, 2))]

    def wrapped(model: Any) -> Any:
        return functools.reduce(lambda it, wrap: wrap(it), wraps, model)

    model = GPT()
    with tiecheck.guard(model) as g:
        held = [g.watch(wrapped(copy.deepcopy(model))), g.watch(wrapped(model))]
        g.watch(wrapped(copy.deepcopy(model)))
    with pytest.raises(tiecheck.TieBroken, match=r"what g\.watch was given") as caught, tiecheck.guard(model) as g:
        (held.append if seed % 2 else id)(g.watch(wrapped(own_head(copy.deepcopy(model)))))
    (one,) = caught.value.broken
    assert one.names == ("lm_head.weight", "wte.weight")
    late = copy.deepcopy(model)
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model) as g:
        held += [g.watch(wrapped(late)), own_head(late)]
    assert [one.names for one in caught.value.broken] == [("lm_head.weight", "wte.weight")]
    with tiecheck.guard(model) as g:  # given up for one that is whole
        g.watch(wrapped(own_head(copy.deepcopy(model))))
        held.append(g.watch(wrapped(copy.deepcopy(model))))


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_break_before_the_wrapper_came_back_is_told_once_by_its_own_line(wrap: Any) -> None:
    model: Any = GPT()
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model) as g:
        g.watch(wrap(own_head(model)))
    (one,) = caught.value.broken
    assert one.since.code == "model.lm_head = copy.deepcopy(model.lm_head)"
    assert str(caught.value).startswith("GPT has lost 1 of its ties")


def test_a_break_in_a_function_is_told_when_its_model_is_gone_and_one_that_was_mended_is_not() -> None:
    def prepare(g: Any, *, mend: bool) -> None:
        inner = g.watch(copy.deepcopy(model))
        own_head(inner)
        if mend:
            inner.lm_head.weight = inner.wte.weight

    model = GPT()
    with pytest.raises(tiecheck.TieBroken, match=r"model\.lm_head = ") as caught:  # noqa: SIM117
        with tiecheck.guard(model) as g:
            prepare(g, mend=False)
    assert str(caught.value).startswith("GPT has lost")
    with tiecheck.guard(model) as g:
        prepare(g, mend=True)
    with pytest.raises(tiecheck.TieBroken, match="the model is gone"), tiecheck.guard(model, on_break="retie") as g:
        prepare(g, mend=False)


def test_of_two_models_in_one_that_could_be_meant_none_is() -> None:
    model = GPT()
    with tiecheck.guard(model) as g:
        held = g.watch(nn.ModuleDict({"student": model, "teacher": own_head(copy.deepcopy(model))}))
    assert len(held) == 2
    wrapped = nn.ModuleList([nn.ModuleList([own_head(copy.deepcopy(model))])])  # no model of the guarded class
    with pytest.raises(tiecheck.TieBroken, match=r"0\.0\.lm_head"), tiecheck.guard(nn.Sequential(model)) as g:
        g.watch(wrapped)


class Renamed(nn.Module):
    """A conversion: other names, the same values."""

    def __init__(self, model: Any, *, tied: bool, head: bool = True) -> None:
        super().__init__()
        self.table = copy.deepcopy(model.wte)
        if head:
            self.out = copy.deepcopy(model.lm_head)
        if tied:
            self.out.weight = self.table.weight


def test_a_copy_under_other_names_is_placed_by_its_values_or_it_is_said_that_it_is_not() -> None:
    model = GPT()
    for other in (Renamed(model, tied=True), Renamed(GPT(), tied=False), model.wte):  # tied, another model, a part
        with tiecheck.guard(model) as g, warnings.catch_warnings():
            warnings.simplefilter("error")
            g.watch(other)
    for change in (nn.Module.float, nn.Module.half):
        with pytest.raises(tiecheck.TieBroken, match=r"out\.weight and table\.weight"), tiecheck.guard(model) as g:
            g.watch(change(Renamed(model, tied=False)))
    with pytest.warns(TieWarning, match=r"none of these names, but table\.weight"), tiecheck.guard(model) as g:
        g.watch(Renamed(model, tied=False, head=False))
    flat = GPT()
    nn.init.ones_(flat.wte.weight)
    (tie,) = remember_ties(flat)
    watched = WatchedTie(weakref.ref(flat), tie, UserLine("", 1, "", ""))
    assert not renamed_ties([watched], tie, Renamed(flat, tied=False), watched.seen)  # a constant is anybody's


def load(model: Any) -> None:
    model.load_state_dict({name: torch.randn(t.shape) for name, t in model.state_dict().items()})


def draw_by_data(model: Any) -> None:
    model.wte.weight.data.fill_(1)


def half_by_half(model: Any) -> None:
    model.to("meta")
    for layer in (model.lm_head, model.wte):
        layer.to_empty(device="cpu")
        layer.reset_parameters()


@pytest.mark.parametrize("swap", [False, True])
def test_what_to_empty_made_can_be_swapped_under_a_guard(swap: bool) -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(6, 6)})
    model["head"] = model["wte"]
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        with tiecheck.guard(model):
            model.to("meta").to_empty(device="cpu")
            torch.utils.swap_tensors(model["wte"].weight, nn.Parameter(torch.randn(6, 6)))  # refuses what has a weakref
            model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model["head"].weight.dtype is torch.float64


def cast(model: Any) -> None:
    model.double()
    model.lm_head.weight.data.fill_(2)  # memory without values may be alike by chance, and is tied again then


@pytest.mark.parametrize("write", [None, cast, load, draw_by_data, half_by_half])
def test_what_to_empty_made_is_tied_again_until_somebody_writes_into_it(write: Any) -> None:
    def emptied(g: Any) -> None:
        model.to("meta")
        model.to_empty(device="cpu")
        if write is not None:
            write(model)
        g.verify()

    model = GPT()
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model) as g:
        emptied(g)
    assert ("no values yet" in str(caught.value)) == (write is None)
    assert ("are right" in str(caught.value)) == (write is not None)
    model = GPT()
    if write is None:
        with tiecheck.guard(model, on_break="retie") as g:
            emptied(g)
        assert model.lm_head.weight is model.wte.weight
        return
    with pytest.raises(tiecheck.TieBroken, match="nobody knows which"), tiecheck.guard(model, on_break="retie") as g:
        emptied(g)


def saved(model: Any) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file), assign=True)


def turned_twice(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.wte.weight.t().t())


def turned(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.wte.weight.view(-1)[: 4 * 4].view(4, 4).t())
    model.wte.weight = nn.Parameter(model.lm_head.weight.t())


@pytest.mark.parametrize("part", [saved, turned_twice, turned])
def test_of_one_memory_nobody_is_asked_which_values_are_right(part: Any) -> None:
    model = GPT()
    with pytest.raises(tiecheck.TieBroken, match="over one memory") as caught, tiecheck.guard(model):
        part(model)
    assert ("are right" in str(caught.value)) == (part is turned)  # of a square one turned the values differ


def test_a_group_of_a_contract_that_is_not_there_is_one_finding() -> None:
    report = tiecheck.check(Own(GPT()), ties=[["head.weight", "wpe.weight"]])
    (found,) = report.findings
    assert found.code == "TIE309"
    assert "has no head.weight and wpe.weight" in found.message


@pytest.mark.parametrize(
    "gone",
    [lambda m: setattr(m, "bias", None), lambda m: delattr(m, "bias"), lambda m: m.register_parameter("bias", None)],
    ids=["none", "deleted", "registered"],
)
def test_a_member_that_is_gone_is_told_though_another_stands_below_it(gone: Any) -> None:
    head = nn.ModuleDict({"decoder": nn.Linear(4, 4)})
    head.bias = head.decoder.bias  # BERT's head registers the bias of its decoder too
    model = nn.ModuleDict({"head": head})
    with pytest.raises(tiecheck.TieBroken, match="one of them is gone"), tiecheck.guard(model):
        gone(head)
    assert head.decoder.bias is not None
