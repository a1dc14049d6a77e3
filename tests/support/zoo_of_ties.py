"""Every way two names can hang together, each really built, with what each tool was measured to make of it.

One builder a row. The letters are those of the survey of the tools: `Y` the whole group, `p` a part of it, `-` nothing,
`E` raises, `!` reports what is not tied. The columns: B accelerate 0.18 to 0.33, C from 0.34, L
lightning, S safetensors, T torch's list without duplicates, F `functional_call`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tiecheck.records.report import View

Names = tuple[str, ...]


class Row(NamedTuple):
    build: Callable[[], nn.Module]
    kind: str
    """Our own verdict on each group, `none` where there is no group."""
    truth: tuple[Names, ...]
    """The groups that really share something."""
    sees: str
    """One letter for each of A B C L S T F."""
    drops: Names | None
    """What accelerate's `clean_state_dict_for_safetensors` deletes; None where it raises."""
    group: bool
    """Whether building it takes a process group."""


ROWS: dict[str, Row] = {}


def row(
    sees: str, kind: str = "none", *truth: Iterable[str], drops: Iterable[str] | None = (), group: bool = False
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Add a builder under its name."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        groups = tuple(sorted(tuple(sorted(names)) for names in truth))
        dropped = None if drops is None else tuple(sorted(drops))
        name = build.__name__.removeprefix("row_")
        assert name not in ROWS
        ROWS[name] = Row(build, kind, groups, sees.replace(" ", ""), dropped, group)
        return build

    return add


class Small(nn.Module):
    """An embedding and a head of one shape, and a third linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.lin = nn.Linear(4, 8, bias=False)
        self.sub = nn.Linear(4, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.lin(self.emb(tokens)) + self.sub(self.emb(tokens))


def holding(**parameters: torch.Tensor) -> nn.Module:
    """A module with some tensors as parameters, each a `Parameter` object of its own."""
    module = nn.Module()
    for name, tensor in parameters.items():
        module.register_parameter(name, nn.Parameter(tensor))
    return module


EMB_LIN = ("emb.weight", "lin.weight")
LIN = ("lin.weight",)


@row("- - - - - -")
def row_00_untied():
    return Small()


@row("Y Y Y Y Y Y", "parameter", EMB_LIN, drops=LIN)
def row_01_assigned_weight():
    model = Small()
    model.lin.weight = model.emb.weight
    return model


@row("- Y Y Y Y Y", "module", ("ff_out.weight", "wte.weight"), drops=("ff_out.weight",))
def row_02a_alias_among_siblings():
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.ff_out = model.wte
    return model


@row("Y Y Y Y Y Y", "module", ("ff_out.weight", "transformer.wte.weight"), drops=("ff_out.weight",))
def row_02b_alias_across_parents():
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.wte = nn.Embedding(8, 4)
    model.ff_out = model.transformer.wte
    return model


@row(
    "- Y Y Y Y Y",
    "module",
    ("transformer.ff_out.weight", "transformer.wte.weight"),
    drops=("transformer.ff_out.weight",),
)
def row_02c_alias_in_a_module_dict():
    model = nn.Module()
    wte = nn.Embedding(8, 4)
    model.transformer = nn.ModuleDict({"wte": wte, "ff_out": wte})
    return model


@row("p Y Y Y Y Y", "parameter", (*EMB_LIN, "other.weight"), drops=("lin.weight", "other.weight"))
def row_03_alias_and_parameter_tie():
    model = Small()
    model.other = model.emb
    model.lin.weight = model.emb.weight
    return model


@row(
    "- Y Y Y Y Y",
    "module",
    ("0.bias", "1.bias", "2.bias"),
    ("0.weight", "1.weight", "2.weight"),
    drops=("1.bias", "1.weight", "2.bias", "2.weight"),
)
def row_04_one_block_three_times():
    return nn.ModuleList([nn.Linear(2, 2)] * 3)


@row(
    "Y Y Y Y Y Y",
    "module",
    ("a.0.bias", "b.0.bias", "c.x.bias"),
    ("a.0.weight", "b.0.weight", "c.x.weight"),
    drops=("b.0.bias", "b.0.weight", "c.x.bias", "c.x.weight"),
)
def row_04b_one_block_in_three_containers():
    block = nn.Linear(2, 2)
    model = nn.Module()
    model.a, model.b, model.c = nn.ModuleList([block]), nn.Sequential(block), nn.ModuleDict({"x": block})
    return model


@row("Y Y Y Y Y Y", "parameter", ("a.w", "b.c.w", "w"), drops=("a.w", "b.c.w"))
def row_05_one_parameter_at_three_depths():
    model = holding(w=torch.ones(3))
    model.a, model.b = nn.Module(), nn.Module()
    model.b.c = nn.Module()
    model.a.w = model.b.c.w = model.w
    return model


@row("- Y Y Y Y Y", "parameter", ("v", "w"), drops=("v",))
def row_05b_twice_on_the_root():
    model = holding(w=torch.ones(3))
    model.v = model.w
    return model


@row("- Y Y Y Y Y", "parameter", ("sub.k", "sub.q"), drops=("sub.k",))
def row_05c_twice_in_one_leaf():
    model = nn.Module()
    model.sub = holding(q=torch.ones(3))
    model.sub.k = model.sub.q
    return model


@row("p Y Y Y Y Y", "parameter", ("d.x", "l.0", "l.1"), drops=("d.x", "l.1"))
def row_05d_parameter_list_and_dict():
    parameter = nn.Parameter(torch.ones(3))
    model = nn.Module()
    model.l, model.d = nn.ParameterList([parameter, parameter]), nn.ParameterDict({"x": parameter})
    return model


@row("- - - Y - -", "storage", EMB_LIN, drops=LIN)
def row_06_a_new_parameter_over_the_weight():
    model = Small()
    model.lin.weight = nn.Parameter(model.emb.weight)
    return model


@row("- - - Y - -", "storage", EMB_LIN, drops=LIN)
def row_07_data_assigned():
    model = Small()
    model.lin.weight.data = model.emb.weight.data
    return model


@row("- - - E - -", "storage", EMB_LIN, drops=LIN)
def row_08_transposed():
    model = Small()
    model.lin = nn.Linear(8, 4, bias=False)
    model.lin.weight = nn.Parameter(model.emb.weight.t())
    return model


@row("- - - - - -", drops=("b",))
def row_09a_disjoint_slices():
    flat = torch.arange(12.0)
    return holding(a=flat[:6], b=flat[6:])


@row("- - - Y - -", "overlap", ("a", "b"), drops=("b",))
def row_09b_overlapping_slices():
    flat = torch.arange(12.0)
    return holding(a=flat[:8], b=flat[4:])


@row("- - - Y - -", "overlap", ("flat", "one", "two"), drops=("one", "two"))
def row_09c_whole_and_slices():
    flat = torch.arange(12.0)
    return holding(flat=flat, one=flat[:8], two=flat[4:])


@row("- - - p - -", "overlap", ("a", "b", "c"), drops=("b", "c"))
def row_09d_nested_intervals():
    flat = torch.arange(12.0)
    return holding(a=flat[:12], b=flat[2:4], c=flat[6:10])


@row("- - - ! - -", drops=("b",))
def row_09e_interleaved_columns():
    whole = torch.arange(12.0).reshape(6, 2)
    return holding(a=whole[:, 0], b=whole[:, 1])


@row("- - - Y - -", "storage", ("a", "b"), drops=("b",))
def row_09f_expanded_scalar():
    scalar = torch.ones(1)
    return holding(a=scalar.expand(4), b=scalar.expand(4))


@row("- - - - - -")
def row_10_equal_values():
    model = Small()
    model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())
    return model


@row("- - - Y - Y", "parameter", ("a", "b"), drops=("b",))
def row_11a_shared_buffer():
    model = Small()
    shared = torch.zeros(3)
    model.register_buffer("a", shared)
    model.register_buffer("b", shared)
    return model


@row("- - - - - Y", "parameter", ("a", "b"))
def row_11b_shared_buffer_that_is_not_stored():
    model = Small()
    shared = torch.zeros(3)
    model.register_buffer("a", shared, persistent=False)
    model.register_buffer("b", shared, persistent=False)
    return model


@row("- - - Y - Y", "parameter", ("emb.weight", "sub.w"), drops=("sub.w",))
def row_12a_parameter_and_buffer():
    model = Small()
    model.sub.register_buffer("w", model.emb.weight)
    return model


@row("- - - Y - -", "storage", ("emb.weight", "sub.w"), drops=("sub.w",))
def row_12b_buffer_over_the_data():
    model = Small()
    model.sub.register_buffer("w", model.emb.weight.data)
    return model


@row("- - - - - -")
def row_12c_parameter_in_a_python_list():
    model = Small()
    model.tied = [model.emb.weight]
    return model


@row("Y Y Y - Y Y", "parameter", EMB_LIN, drops=("lin.weight", "sub.weight"))
def row_13a_tied_on_meta():
    with torch.device("meta"):
        return row_01_assigned_weight()


@row("- - - - - -", drops=("lin.weight", "sub.weight"))
def row_13b_untied_on_meta():
    with torch.device("meta"):
        return Small()


@row("- - - - - -", "storage", EMB_LIN, drops=("lin.weight", "sub.weight"))
def row_13c_rewrapped_on_meta():
    with torch.device("meta"):
        return row_06_a_new_parameter_over_the_weight()


@row("- - - E - -", drops=None)
def row_14a_lazy_untied():
    return nn.Sequential(nn.LazyLinear(4, bias=False), nn.LazyLinear(4, bias=False))


@row("Y Y Y E Y Y", "parameter", ("0.weight", "1.weight"), drops=None)
def row_14b_lazy_tied():
    model = row_14a_lazy_untied()
    model[1].weight = model[0].weight
    return model


@row("Y Y Y Y Y Y", "parameter", ("0.weight", "1.weight"), drops=("1.weight",))
def row_14c_lazy_tied_and_then_initialised():
    model = row_14b_lazy_tied()
    model(torch.ones(1, 4))
    return model


@row("Y Y Y Y Y Y", "parameter", ("0.weight", "1.weight"), drops=("1.weight",))
def row_14d_lazy_initialised_and_then_tied():
    model = row_14a_lazy_untied()
    model(torch.ones(1, 4))
    model[1].weight = model[0].weight
    return model


@row(
    "- - - Y - -",
    "storage",
    ("emb.weight", "lin.parametrizations.weight.original1"),
    drops=("lin.parametrizations.weight.original1",),
)
def row_20_weight_norm_after_the_tie():
    model = row_01_assigned_weight()
    nn.utils.parametrizations.weight_norm(model.lin)
    return model


class Doubled(nn.Module):
    """A parametrization without `right_inverse`."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@row(
    "Y Y Y Y Y Y",
    "parameter",
    ("emb.weight", "lin.parametrizations.weight.original"),
    drops=("lin.parametrizations.weight.original",),
)
def row_20b_a_parametrization():
    model = row_01_assigned_weight()
    parametrize.register_parametrization(model.lin, "weight", Doubled())
    return model


@row("Y Y Y Y Y Y", "parameter", ("emb.weight", "lin.weight_orig"), drops=("lin.weight_orig",))
def row_21_pruned():
    model = row_01_assigned_weight()
    prune.l1_unstructured(model.lin, "weight", amount=0.5)
    return model


def prefixed(prefix: str) -> Names:
    return tuple(prefix + name for name in EMB_LIN)


@row("Y Y Y Y Y Y", "parameter", prefixed("_orig_mod."), drops=("_orig_mod.lin.weight",))
def row_22_compiled():
    return torch.compile(row_01_assigned_weight())


@row("Y Y Y Y Y Y", "parameter", prefixed("module."), drops=("module.lin.weight",))
def row_22a_data_parallel():
    return nn.DataParallel(row_01_assigned_weight())


@row("Y Y Y Y Y Y", "parameter", prefixed("module."), drops=("module.lin.weight",))
def row_22b_averaged():
    return torch.optim.swa_utils.AveragedModel(row_01_assigned_weight())


@row("Y Y Y Y Y Y", "parameter", prefixed("module."), drops=("module.lin.weight",), group=True)
def row_22c_distributed_data_parallel():
    return nn.parallel.DistributedDataParallel(row_01_assigned_weight())


@row("Y Y Y Y Y Y", "parameter", EMB_LIN, drops=LIN)
def row_22d_scripted():
    return torch.jit.script(row_01_assigned_weight())


def exported() -> torch.export.ExportedProgram:
    return torch.export.export(row_01_assigned_weight(), (torch.tensor([[1, 2]]),))


@row("Y Y Y Y Y Y", "parameter", EMB_LIN, drops=LIN)
def row_22e_exported():
    return exported().module()


@row("- - - Y - -", "storage", EMB_LIN, drops=LIN)
def row_22e2_exported_and_loaded():
    file = io.BytesIO()
    torch.export.save(exported(), file)
    file.seek(0)
    return torch.export.load(file).module()


@row("Y Y Y E Y Y", "parameter", EMB_LIN, drops=None, group=True)
def row_22f_fully_sharded_at_once():
    from torch.distributed.fsdp import fully_shard

    return fully_shard(row_01_assigned_weight())


@row("Y Y Y E Y Y", "parameter", EMB_LIN, drops=None, group=True)
def row_22f2_fully_sharded_as_one_unit():
    from torch.distributed.fsdp import fully_shard

    model = row_01_assigned_weight()
    fully_shard([model.emb, model.lin])
    return fully_shard(model)


@row("- - - E - -", drops=None, group=True)
def row_22f3_fully_sharded_in_two_units():
    from torch.distributed.fsdp import fully_shard

    model = row_01_assigned_weight()
    fully_shard(model.lin)
    return fully_shard(model)


@row("- - - - - -")
def row_23_module_in_a_plain_list():
    model = Small()
    model.hidden = [model.emb]
    return model


@row("- - - - - -")
def row_23b_functional_tie():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(8, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.emb(tokens), self.emb.weight)

    return Functional()


@row("E E E E E E", drops=None)
def row_24_registered_cycle():
    model = Small()
    model.child = nn.Linear(2, 2)
    model.child.parent = model
    return model


class Quantised(torch.Tensor):
    """A wrapper subclass that says what it wraps, as torchao's do: no package of theirs is needed to show it."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        result = func(*[arg.inner if isinstance(arg, cls) else arg for arg in args], **(kwargs or {}))
        return cls(result) if isinstance(result, torch.Tensor) else result

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Quantised(inner["inner"])


def pair(one: nn.Parameter, other: nn.Parameter) -> nn.Module:
    model = Small()
    model.emb.weight, model.lin.weight = one, other
    return model


def distributed_tensor() -> torch.Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    return distribute_tensor(torch.ones(8, 4), init_device_mesh("cpu", (1,)), [Replicate()])


@row("Y Y Y E Y Y", "parameter", EMB_LIN, drops=None, group=True)
def row_25_one_dtensor():
    parameter = nn.Parameter(distributed_tensor())
    return pair(parameter, parameter)


@row("- - - E - -", "storage", EMB_LIN, drops=None, group=True)
def row_25b_two_parameters_over_one_dtensor():
    whole = distributed_tensor()
    return pair(nn.Parameter(whole), nn.Parameter(whole))


@row("Y Y Y E Y Y", "parameter", EMB_LIN, drops=None)
def row_25c_one_quantised_tensor():
    parameter = nn.Parameter(Quantised(torch.ones(8, 4)))
    return pair(parameter, parameter)


@row("- - - E - -", "storage", EMB_LIN, drops=None)
def row_25d_two_parameters_over_one_quantised_tensor():
    inner = torch.ones(8, 4)
    return pair(nn.Parameter(Quantised(inner)), nn.Parameter(Quantised(inner)))


@row("- - - - - -", drops=("b",))
def row_26_zero_size():
    return holding(a=torch.empty(0, 4), b=torch.empty(0, 4))


every_row = pytest.mark.parametrize("built", ROWS.values(), ids=ROWS, indirect=True)
"""Runs a test on every row: it takes `built`, a row and its model."""


def by_column(views: tuple[View, ...]) -> dict[tuple[str, str | None, str], View]:
    """The views, of a tool that is run and reproduced too the reproduction."""
    ordered = sorted(views, key=lambda view: view.version is None)
    return {(view.tool, view.function, view.algorithm): view for view in ordered}
