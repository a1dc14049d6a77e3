"""Parameter counts of live modules: against torch's own sums where these are right, and by hand where they are not."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.live.parameter_counts import OVERLAP
from tiecheck.records.counts import Counts, Tally


class Pair(nn.Module):
    """An embedding and a head of one shape, and a norm: 32 + 32 + 8 elements."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.norm = nn.LayerNorm(4)


def elements(counts: Counts) -> tuple[int | None, ...]:
    """What each way of counting gives: unique, objects, expected."""
    return counts.unique.elements, counts.objects.elements, counts.expected.elements


def tied_by(way: Callable[[Pair], object]) -> nn.Module:
    model = Pair()
    way(model)
    return model


def over_a_flat(model: Pair) -> None:
    flat = torch.zeros(50)
    model.a, model.b = nn.Parameter(flat[:30]), nn.Parameter(flat[20:])


def alias_and_parameter(model: Pair) -> None:
    model.again = model.emb
    model.head.weight = model.emb.weight


WAYS = {
    "untied": (lambda m: None, (72, 72)),
    "parameter": (lambda m: setattr(m.head, "weight", m.emb.weight), (40, 40)),
    "module": (lambda m: setattr(m, "head", m.emb), (40, 40)),
    "alias-and-parameter": (alias_and_parameter, (40, 40)),
    "new-parameter": (lambda m: setattr(m.head, "weight", nn.Parameter(m.emb.weight)), (40, 72)),
    "data": (lambda m: setattr(m.head.weight, "data", m.emb.weight.data), (40, 72)),
    "transposed": (lambda m: setattr(m, "t", nn.Parameter(m.emb.weight.t())), (72, 104)),
    "rows": (lambda m: setattr(m, "row", nn.Parameter(m.emb.weight[2:4])), (None, 80)),
    "column": (lambda m: setattr(m, "column", nn.Parameter(m.emb.weight[:, 1])), (None, 80)),
    "overlap": (over_a_flat, (None, 132)),
    "zero-size": (lambda m: setattr(m, "empty", nn.Parameter(torch.zeros(0, 5))), (72, 72)),
    "buffer": (lambda m: m.register_buffer("mask", torch.zeros(5)), (72, 72)),
    "buffer-over-a-parameter": (lambda m: m.register_buffer("same", m.emb.weight.data), (72, 72)),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_hanging_together(way: str) -> None:
    do, (unique, objects) = WAYS[way]
    model = tied_by(do)
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == (unique, objects, unique)
    assert counts.reasons == (() if unique else (f"2 tensors: {OVERLAP}",))
    assert counts.objects.elements == sum(p.numel() for p in model.parameters())
    assert counts.objects.nbytes == 4 * objects
    assert counts.unique.nbytes == (4 * unique if unique else None)


def test_ways_agree_on_meta_too() -> None:
    with torch.device("meta"):
        model = Pair()
        model.shared = nn.Parameter(model.emb.weight)
    assert elements(tiecheck.count_parameters(model)) == (72, 104, 72)


def test_trainable_is_what_a_gradient_reaches() -> None:
    model = Pair()
    model.emb.requires_grad_(requires_grad=False)
    assert tiecheck.count_parameters(model).unique == Tally(72, 288, 40)
    model.head.weight = nn.Parameter(model.emb.weight)
    counts = tiecheck.count_parameters(model)
    assert (counts.unique, counts.objects) == (Tally(40, 160, 40), Tally(72, 288, 40)), "one of the two trains it"
    model.head.weight.requires_grad_(requires_grad=False)
    assert tiecheck.count_parameters(model).unique == Tally(40, 160, 8)


def test_lazy_parameters_are_unknown_until_they_are_there() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4), nn.BatchNorm1d(4))
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == (None, None, None)
    assert counts.reasons == ("2 tensors: not initialised yet (a lazy module)",)
    model(torch.zeros(2, 2))
    assert elements(tiecheck.count_parameters(model)) == (9 + 16 + 8,) * 3


def test_counting_grows_with_the_modules_alone() -> None:
    def counted(layers: int) -> float:
        model = nn.Sequential(*[Pair() for _ in range(layers)])
        for pair in list(model)[::4]:
            pair.head.weight = pair.emb.weight
        begin = time.process_time()
        counts = tiecheck.count_parameters(model)
        assert counts.unique.elements == 72 * layers - 32 * (layers // 4)
        return time.process_time() - begin

    counted(100)
    assert counted(4_000) < 8 * max(counted(1_000), 0.01), "four times the model, not sixteen times the work"


def test_a_wrapped_tensor_counts_as_what_it_stands_for() -> None:
    class Half(torch.Tensor):
        """Says 8 elements of float32 and holds 8 bytes."""

        @staticmethod
        def __new__(cls, inner: torch.Tensor) -> torch.Tensor:
            return torch.Tensor._make_wrapper_subclass(cls, (8,), dtype=torch.float32)

        def __init__(self, inner: torch.Tensor) -> None:
            self.inner = inner

        def __tensor_flatten__(self):
            return ["inner"], None

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return Half(args[0].inner) if func is torch.ops.aten.detach.default else NotImplemented

    model = nn.Module()
    model.a = nn.Parameter(Half(torch.zeros(8, dtype=torch.int8)), requires_grad=False)
    model.b = nn.Parameter(model.a.data, requires_grad=False)
    counts = tiecheck.count_parameters(model)
    assert (counts.unique.elements, counts.objects.elements) == (8, 16)


def test_dtensor_counts_its_global_shape(tmp_path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group(
        "fake", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=4
    )
    try:
        mesh = init_device_mesh("cpu", (4,))
        model = nn.Module()
        model.a = nn.Parameter(distribute_tensor(torch.zeros(8, 4), mesh, [Shard(0)]))
        model.b = model.a
        counts = tiecheck.count_parameters(model)
    finally:
        distributed.destroy_process_group()
    assert counts.unique.elements == counts.objects.elements == 32, "of which eight are here"


def test_partitioned_parameters_are_unknown() -> None:
    model = Pair()
    model.emb.weight.data = torch.zeros(0)
    model.emb.weight.ds_id = 1  # as DeepSpeed's ZeRO-3 marks what it has taken apart
    counts = tiecheck.count_parameters(model)
    assert counts.unique.elements is None
    assert "ZeRO-3" in counts.reasons[0]


def test_counting_changes_nothing() -> None:
    model = Pair()
    before = copy.deepcopy(model.state_dict())
    versions = [p._version for p in model.parameters()]
    tiecheck.count_parameters(model)
    assert versions == [p._version for p in model.parameters()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_only_a_module_is_counted() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        tiecheck.count_parameters({})
