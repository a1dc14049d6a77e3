"""Plain modules as strangers write them, their ties broken in ways of their own: guard says the truth and the line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tie_kinds import marked_line
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.optim.swa_utils import AveragedModel

import tiecheck

IDS = torch.zeros(1, 3, dtype=torch.long)


class Plain(nn.Module):
    """Embedding, layers, head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 12)
        self.body = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.head = nn.Linear(12, 40, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.emb(ids)
        for layer in self.body:
            x = torch.tanh(layer(x))
        return self.head(x)


class ThreeWays(Plain):
    """A second head, all three one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(12, 40, bias=False)
        self.head.weight = self.aux.weight = self.emb.weight


class Property(Plain):
    """The head's weight is a property that asks the model for its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = _Borrowing(self)


class _Borrowing(nn.Module):
    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.__dict__["owner"] = owner

    @property
    def weight(self) -> torch.Tensor:
        return self.owner.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Lazy(nn.Module):
    """A lazy head, tied when it is initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(40, 12), nn.LazyLinear(40, bias=False)
        self(IDS)
        self.head.weight = self.emb.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.emb(ids))


class Shared(nn.Module):
    """One layer, four times in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 12)] * 4)


def memory(model: Any = None) -> nn.Module:
    model = model or Plain()
    model.head.weight.data = model.emb.weight.data
    return model


def transposed() -> nn.Module:
    model = Plain()
    model.head = nn.Linear(40, 12, bias=False)
    model.head.weight = nn.Parameter(model.emb.weight.t())
    return model


def hooked() -> nn.Module:
    model = Plain()
    model.handle = model.register_forward_pre_hook(lambda m, _: setattr(m.head, "weight", m.emb.weight))
    model(IDS)
    return model


def converts(model: Any, _: Any) -> None:
    model.to(torch.float64)  # <-


def loads(model: Any, _: Any) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)  # <-


def writes_data(model: Any, _: Any) -> None:
    nn.init.normal_(model.emb.weight)
    model.head.weight.data = torch.randn(12, 40)  # <-


def copies_each(model: Any, _: Any) -> None:
    for i in range(4):
        model.layers[i] = copy.deepcopy(model.layers[i])  # <-


def loses_its_hook(model: Any, _: Any) -> None:
    model.handle.remove()
    model.emb = nn.Embedding.from_pretrained(torch.randn(40, 12), freeze=False)  # <-
    model(IDS)


def averages(model: Any, guard: Any) -> Any:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    guard.watch(copy.deepcopy(model)).load_state_dict(state)
    guard.watch(AveragedModel(model)).update_parameters(model)
    fresh = Plain()
    fresh.aux = nn.Linear(12, 40, bias=False)
    fresh.load_state_dict(state)
    return guard.watch(fresh)  # <-


def compiles(model: Any, guard: Any) -> None:
    made = guard.watch(torch.compile(model, backend="eager"))
    made(IDS)
    made.head = nn.Linear(12, 40, bias=False)  # <-


def trains_in_parallel(model: Any, guard: Any) -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        wrapped = guard.watch(nn.parallel.DistributedDataParallel(model))
        optimizer = torch.optim.AdamW(wrapped.parameters())
        for step in range(4):
            wrapped(torch.randint(0, 40, (2, 5))).square().mean().backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
            if step == 2:
                wrapped.module.aux.weight = nn.Parameter(model.aux.weight.detach().clone())  # <-
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("build", "broken", "ties"),
    [
        (memory, converts, 1),
        (Lazy, loads, 1),
        (transposed, writes_data, 1),
        (Shared, copies_each, 2),
        (hooked, loses_its_hook, 1),
        (ThreeWays, averages, 1),
        (ThreeWays, compiles, 1),
        (ThreeWays, trains_in_parallel, 1),
    ],
)
def test_the_line_that_broke_it(build: Callable[[], Any], broken: Callable[..., Any], ties: int) -> None:
    model = build()
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model) as guard:
        held = broken(model, guard)
    assert held is None or isinstance(held, nn.Module)
    assert len(caught.value.broken) == ties, "a model and its wrapper are one"
    for one in caught.value.broken:
        assert (one.since.path, one.since.line, one.seen) == (__file__, marked_line(broken), True)


def follows(model: Any, guard: Any) -> None:
    guard.watch(copy.deepcopy(model)).emb = nn.Embedding(40, 12)


def mends_itself(model: Any, _: Any) -> None:
    model.head.weight = nn.Parameter(torch.randn(40, 12))
    model(IDS)


def accumulates(model: Any, _: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        model(IDS).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("build", "kept"),
    [(Property, follows), (hooked, mends_itself), (ThreeWays, accumulates), (memory, accumulates), (Lazy, accumulates)],
)
def test_what_keeps_a_tie_is_silent(build: Callable[[], Any], kept: Callable[..., None]) -> None:
    model = build()
    with tiecheck.guard(model) as guard:
        kept(model, guard)
    assert guard.broken == ()


def test_a_write_past_the_module_in_a_block_of_one_look_is_told_as_that() -> None:
    model = ThreeWays()
    with (
        pytest.raises(tiecheck.TieBroken, match=r"in the block that begins at .*test_plain_models"),
        tiecheck.guard(model),
    ):
        model.aux._parameters["weight"] = nn.Parameter(model.aux.weight * 1)


def test_a_property_is_one_parameter_with_two_uses_and_memory_is_stepped_twice() -> None:
    roles = [use.role for use in tiecheck.uses(Property(), IDS) if use.names == ("emb.weight",)]
    assert roles == ["embedding", "linear"]
    model = memory()
    report = tiecheck.check(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert {finding.code for finding in report.findings} == {"TIE302", "TIE702"}


def test_another_model_is_told_of_by_how_it_is_shared() -> None:
    model = Plain()
    model.head.weight = model.emb.weight
    other = copy.deepcopy(model)
    assert tiecheck.check(other, beside=[model]).findings == ()
    for one, two in zip(other.parameters(), model.parameters(), strict=True):
        one.data = two.data
    (finding,) = tiecheck.check(other, beside=[model]).findings
    assert (finding.code, finding.severity) == ("TIE319", "warning")
    borrowed = Plain()
    weight = model.emb.weight
    borrowed.head = None
    borrowed.forward = lambda ids: F.linear(borrowed.emb(ids), weight)
    assert "TIE406" in {finding.code for finding in tiecheck.check(borrowed, beside=[model], uses=True).findings}
