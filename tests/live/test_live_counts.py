"""Parameter counts of live modules: against torch's own sums where these are right, and by hand where they are not."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.records.counts import Counts, Tally
from tiecheck.testing.asserts import assert_tied


class Pair(nn.Module):
    """An embedding and a head of one shape, and a norm: 32 + 32 + 8 elements."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.norm = nn.LayerNorm(4)


def elements(counts: Counts) -> tuple[int | None, ...]:
    """What each way of counting gives: unique, objects, by name, expected, buffers."""
    assert counts.objects is not None
    assert counts.buffers is not None
    tallies = (counts.unique, counts.objects, counts.by_name, counts.expected, counts.buffers)
    return tuple(tally.elements for tally in tallies)


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


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (lambda m: None, (72, 72, 72, 72, 0)),
        (lambda m: setattr(m.head, "weight", m.emb.weight), (40, 40, 72, 40, 0)),
        (lambda m: setattr(m, "head", m.emb), (40, 40, 72, 40, 0)),
        (alias_and_parameter, (40, 40, 104, 40, 0)),
        (lambda m: setattr(m.head, "weight", nn.Parameter(m.emb.weight)), (40, 72, 72, 40, 0)),
        (lambda m: setattr(m.head.weight, "data", m.emb.weight.data), (40, 72, 72, 40, 0)),
        (lambda m: setattr(m, "t", nn.Parameter(m.emb.weight.t())), (72, 104, 104, 72, 0)),
        (lambda m: setattr(m, "row", nn.Parameter(m.emb.weight[2:4])), (72, 80, 80, 72, 0)),
        (lambda m: setattr(m, "column", nn.Parameter(m.emb.weight[:, 1])), (72, 80, 80, 72, 0)),
        (over_a_flat, (122, 132, 132, 122, 0)),
        (lambda m: setattr(m, "wide", nn.Parameter(torch.zeros(1).expand(9))), (73, 81, 81, 73, 0)),
        (lambda m: setattr(m, "empty", nn.Parameter(torch.zeros(0, 5))), (72, 72, 72, 72, 0)),
        (lambda m: m.register_buffer("mask", torch.zeros(5)), (72, 72, 72, 72, 5)),
        (lambda m: m.register_buffer("same", m.emb.weight.data), (72, 72, 72, 72, 0)),
        (lambda m: m.register_buffer("more", torch.zeros(9)[:4]), (72, 72, 72, 72, 4)),
    ],
    ids=[
        "untied",
        "parameter",
        "module",
        "alias-and-parameter",
        "new-parameter",
        "data",
        "transposed",
        "rows",
        "column",
        "overlap",
        "expanded",
        "zero-size",
        "buffer",
        "buffer-over-a-parameter",
        "buffer-view",
    ],
)
def test_each_way_of_hanging_together(way: Callable[[Pair], object], expected: tuple[int, ...]) -> None:
    model = tied_by(way)
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == expected
    assert counts.reasons == ()
    assert counts.objects.elements == sum(p.numel() for p in model.parameters())
    named = model.named_parameters(remove_duplicate=False)
    assert counts.by_name.elements == sum(p.numel() for _, p in named)
    for tally in (counts.unique, counts.objects, counts.by_name, counts.expected, counts.buffers):
        assert tally.nbytes == 4 * tally.elements


def test_ways_agree_on_meta_too() -> None:
    with torch.device("meta"):
        model = Pair()
        model.shared = nn.Parameter(model.emb.weight)
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == (72, 104, 104, 72, 0)
    assert counts.reasons == ("5 tensors: on meta, their bytes are what they would take",)


def test_trainable_is_what_a_gradient_reaches() -> None:
    model = Pair()
    model.emb.requires_grad_(requires_grad=False)
    assert tiecheck.count_parameters(model).unique == Tally(72, 288, 40)
    model.head.weight = nn.Parameter(model.emb.weight)
    counts = tiecheck.count_parameters(model)
    assert (counts.unique, counts.objects) == (Tally(40, 160, 40), Tally(72, 288, 40)), "one of the two trains it"
    model.head.weight.requires_grad_(requires_grad=False)
    assert tiecheck.count_parameters(model).unique == Tally(40, 160, 8)


def test_views_of_unlike_types_have_bytes_and_no_number_of_elements() -> None:
    model = Pair()
    model.bits = nn.Parameter(model.emb.weight.data.view(torch.int16), requires_grad=False)
    counts = tiecheck.count_parameters(model)
    assert counts.unique == Tally(None, 288, 72)
    assert counts.objects == Tally(136, 416, 72)
    assert any("no one number of elements" in reason for reason in counts.reasons)
    assert any("pack several" in reason for reason in counts.reasons)


def test_lazy_parameters_are_unknown_until_they_are_there() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4), nn.BatchNorm1d(4))
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == (None, None, None, None, 9)
    assert counts.reasons == ("2 tensors: not initialised yet (a lazy module)",)
    model(torch.zeros(2, 2))
    assert elements(tiecheck.count_parameters(model)) == (9 + 16 + 8,) * 4 + (9,)


def test_sparse_memory_is_unknown_and_the_elements_are_those_of_the_shape() -> None:
    model = Pair()
    model.sparse = nn.Parameter(torch.eye(3).to_sparse())
    counts = tiecheck.count_parameters(model)
    assert counts.objects == Tally(81, None, 81)
    assert counts.unique == Tally(None, None, None)
    assert counts.reasons == ("1 tensor: the memory of a sparse_coo Parameter cannot be told",)


def test_a_cycle_makes_names_endless_and_nothing_else() -> None:
    model = Pair()
    model.norm.above = model
    counts = tiecheck.count_parameters(model)
    assert elements(counts) == (72, 72, None, 72, 0)
    assert counts.reasons == ("a module is registered below itself, which makes the names endless",)


def doubled(depth: int) -> nn.Module:
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(depth):
        above = nn.Module()
        above.a = above.b = module
        module = above
    return module


def test_names_of_a_doubled_chain_are_counted_and_not_listed() -> None:
    begin = time.perf_counter()
    assert elements(tiecheck.count_parameters(doubled(64))) == (6, 6, 6 << 64, 6, 0)
    assert elements(tiecheck.count_parameters(doubled(200))) == (6, 6, 1 << 128, 6, 0), "counts stop there"
    assert time.perf_counter() - begin < 1
    assert elements(tiecheck.count_parameters(doubled(10)))[2] == sum(
        p.numel() for _, p in doubled(10).named_parameters(remove_duplicate=False)
    )


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
    assert counted(16_000) < 8 * max(counted(4_000), 0.01), "four times the model, not sixteen times the work"


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
    assert counts.unique == Tally(8, 8, 0)
    assert counts.objects == Tally(16, 16, 0)
    assert counts.reasons == ("2 tensors: the bytes are those that the Half holds in this process",)


def test_dtensor_counts_its_global_shape_and_local_bytes(tmp_path) -> None:
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
    assert counts.unique == counts.objects == Tally(32, 32, 32), "eight elements of four bytes are here"
    assert counts.by_name.elements == 64
    assert "DTensor" in counts.reasons[0]


def test_partitioned_parameters_are_unknown() -> None:
    model = Pair()
    model.emb.weight.data = torch.zeros(0)
    model.emb.weight.ds_id = 1  # as DeepSpeed's ZeRO-3 marks what it has taken apart
    counts = tiecheck.count_parameters(model)
    assert counts.unique.elements is None
    assert "ZeRO-3" in counts.reasons[0]


@pytest.mark.filterwarnings("ignore")
def test_legacy_quantised_tensors() -> None:
    model = nn.Module()
    model.register_buffer("q", torch.quantize_per_tensor(torch.zeros(6), 0.1, 0, torch.qint8))
    assert tiecheck.count_parameters(model).buffers == Tally(6, 6, 0)


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


def test_assert_and_count_agree_on_a_tie() -> None:
    model = Pair()
    model.head.weight = model.emb.weight
    assert_tied(model, "emb.weight", "head.weight")
    counts = tiecheck.count_parameters(model)
    assert counts.by_name.elements - counts.unique.elements == model.emb.weight.numel()
