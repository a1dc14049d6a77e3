"""The live layer's verdict on each way two names can hang together (the truth table of the tools' survey)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tiecheck.live.live_facts import collect_live, find_live_ties
from tiecheck.records.live import Registration

Case = tuple[Callable[[], nn.Module], list[tuple[str, list[str]]]]
CASES: dict[str, Case] = {}


class Small(nn.Module):
    """An embedding and a head of one shape, and a third linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.lin = nn.Linear(4, 8, bias=False)
        self.sub = nn.Linear(4, 8)
        self.nothing = None
        self.register_parameter("none", None)


EMB_LIN = ["emb.weight", "lin.weight"]


def case(*expected: tuple[str, list[str]]) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Add a builder, and the (kind, names) that are to be found in what it builds."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[build.__name__] = (build, list(expected))
        return build

    return add


def holding(**parameters: torch.Tensor) -> nn.Module:
    """A module with some tensors as parameters, each a `Parameter` object of its own."""
    module = nn.Module()
    for name, tensor in parameters.items():
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
    return module


@case()
def row_00_untied():
    return Small()


@case(("parameter", EMB_LIN))
def row_01_assigned_weight():
    model = Small()
    model.lin.weight = model.emb.weight
    return model


@case(("module", ["ff_out.weight", "wte.weight"]))
def row_02a_alias_among_siblings():
    model = nn.Module()
    model.wte = nn.Embedding(8, 4)
    model.ff_out = model.wte
    return model


@case(("module", ["ff_out.weight", "transformer.wte.weight"]))
def row_02b_alias_across_parents():
    model = nn.Module()
    model.transformer = nn.Module()
    model.transformer.wte = nn.Embedding(8, 4)
    model.ff_out = model.transformer.wte
    return model


@case(("module", ["transformer.ff_out.weight", "transformer.wte.weight"]))
def row_02c_alias_in_a_module_dict():
    model = nn.Module()
    wte = nn.Embedding(8, 4)
    model.transformer = nn.ModuleDict({"wte": wte, "ff_out": wte})
    return model


@case(("parameter", ["emb.weight", "lin.weight", "other.weight"]))
def row_03_alias_and_parameter_tie():
    model = Small()
    model.other = model.emb
    model.lin.weight = model.emb.weight
    return model


@case(("module", ["0.bias", "1.bias", "2.bias"]), ("module", ["0.weight", "1.weight", "2.weight"]))
def row_04_one_block_three_times():
    return nn.ModuleList([nn.Linear(2, 2)] * 3)


@case(("module", ["a.0.weight", "b.0.weight", "c.x.weight"]))
def row_04b_one_block_in_three_containers():
    block = nn.Linear(2, 2, bias=False)
    model = nn.Module()
    model.a, model.b, model.c = nn.ModuleList([block]), nn.Sequential(block), nn.ModuleDict({"x": block})
    return model


@case(("parameter", ["a.w", "b.c.w", "w"]))
def row_05_one_parameter_at_three_depths():
    model = holding(w=torch.ones(3))
    model.a, model.b = nn.Module(), nn.Module()
    model.b.c = nn.Module()
    model.a.w = model.b.c.w = model.w
    return model


@case(("parameter", ["v", "w"]))
def row_05b_twice_on_the_root():
    model = holding(w=torch.ones(3))
    model.v = model.w
    return model


@case(("parameter", ["sub.k", "sub.q"]))
def row_05c_twice_in_one_leaf():
    model = nn.Module()
    model.sub = holding(q=torch.ones(3))
    model.sub.k = model.sub.q
    return model


@case(("parameter", ["d.x", "l.0", "l.1"]))
def row_05d_parameter_list_and_dict():
    parameter = nn.Parameter(torch.ones(3))
    model = nn.Module()
    model.l, model.d = nn.ParameterList([parameter, parameter]), nn.ParameterDict({"x": parameter})
    return model


@case(("storage", EMB_LIN))
def row_06_a_new_parameter_over_the_weight():
    model = Small()
    model.lin.weight = nn.Parameter(model.emb.weight)
    return model


@case(("storage", EMB_LIN))
def row_07_data_assigned():
    model = Small()
    model.lin.weight.data = model.emb.weight.data
    return model


@case(("storage", EMB_LIN))
def row_08_transposed():
    model = Small()
    model.lin = nn.Linear(8, 4, bias=False)
    model.lin.weight = nn.Parameter(model.emb.weight.t())
    return model


@case(("storage", ["emb.weight", "lin.weight", "third"]))
def row_08b_a_tie_and_a_third_over_its_memory():
    model = row_01_assigned_weight()
    model.third = nn.Parameter(model.emb.weight.detach().t())
    return model


@case()
def row_09a_disjoint_slices():
    flat = torch.arange(12.0)
    return holding(a=flat[:6], b=flat[6:])


@case(("overlap", ["a", "b"]))
def row_09b_overlapping_slices():
    flat = torch.arange(12.0)
    return holding(a=flat[:8], b=flat[4:])


@case(("overlap", ["flat", "one", "two"]))
def row_09c_whole_and_slices():
    flat = torch.arange(12.0)
    return holding(flat=flat, one=flat[:6], two=flat[6:])


@case(("overlap", ["a", "b", "c"]))
def row_09d_nested_intervals():
    flat = torch.arange(12.0)
    return holding(a=flat[:12], b=flat[2:4], c=flat[6:10])


@case()
def row_09e_interleaved_columns():
    whole = torch.arange(12.0).reshape(6, 2)
    return holding(a=whole[:, 0], b=whole[:, 1])


@case(("overlap", ["a", "whole"]))
def row_09e_a_column_and_the_whole():
    whole = torch.arange(12.0).reshape(6, 2)
    return holding(a=whole[:, 0], whole=whole)


@case()
def row_09e_fused_projections():
    fused = torch.zeros(12, 12)
    return holding(q=fused[:, :4], k=fused[:, 4:8], v=fused[:, 8:])


@case(("overlap", ["fused", "k", "q"]))
def row_09e_fused_projections_beside_their_whole():
    fused = torch.zeros(12, 12)
    return holding(q=fused[:, :4], k=fused[:, 4:8], fused=fused)


@case(("storage", ["a", "b"]))
def row_09f_expanded_scalar():
    scalar = torch.ones(1)
    return holding(a=scalar.expand(4), b=scalar.expand(4))


@case()
def row_10_equal_values():
    model = Small()
    model.lin.weight = nn.Parameter(model.emb.weight.detach().clone())
    return model


@case()
def row_12a_parameter_and_buffer_without_buffers():
    model = Small()
    model.sub.register_buffer("w", model.emb.weight)
    return model


@case()
def row_12c_parameter_in_a_python_list():
    model = Small()
    model.tied = [model.emb.weight]
    return model


@case(("parameter", EMB_LIN))
def row_13a_tied_on_meta():
    with torch.device("meta"):
        return row_01_assigned_weight()


@case()
def row_13b_untied_on_meta():
    with torch.device("meta"):
        return Small()


@case(("storage", EMB_LIN))
def row_13c_rewrapped_on_meta():
    with torch.device("meta"):
        return row_06_a_new_parameter_over_the_weight()


@case()
def row_13d_disjoint_slices_on_meta():
    flat = torch.empty(12, device="meta")
    return holding(a=flat[:6], b=flat[6:])


@case(("overlap", ["a", "b"]))
def row_13e_overlapping_slices_on_meta():
    flat = torch.empty(12, device="meta")
    return holding(a=flat[:8], b=flat[4:])


@case()
def row_14a_lazy_untied():
    return nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4))


@case(("parameter", ["0.weight", "1.weight"]))
def row_14b_lazy_tied():
    model = row_14a_lazy_untied()
    model[1].weight = model[0].weight
    return model


@case(("parameter", ["0.weight", "1.weight"]))
def row_14c_lazy_tied_and_initialised():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4))
    model[1].weight = model[0].weight
    model[0].initialize_parameters(torch.ones(1, 4))
    return model


@case(("storage", ["emb.weight", "lin.parametrizations.weight.original1"]))
def row_20_weight_norm_after_the_tie():
    model = row_01_assigned_weight()
    nn.utils.parametrizations.weight_norm(model.lin)
    return model


@case(("parameter", ["emb.weight", "lin.parametrizations.weight.original"]))
def row_20b_a_parametrization():
    model = row_01_assigned_weight()
    parametrize.register_parametrization(model.lin, "weight", nn.Identity())
    return model


@case(("parameter", ["emb.weight", "lin.weight_orig"]))
def row_21_pruned():
    model = row_01_assigned_weight()
    prune.l1_unstructured(model.lin, "weight", amount=0.5)
    return model


@case(("parameter", ["_orig_mod.emb.weight", "_orig_mod.lin.weight"]))
def row_22_compiled():
    return torch.compile(row_01_assigned_weight())


@case(("parameter", ["module.emb.weight", "module.lin.weight"]))
def row_22b_averaged():
    return torch.optim.swa_utils.AveragedModel(row_01_assigned_weight())


@case(("parameter", ["emb.weight", "lin.weight"]))
def row_22c_deep_copied():
    return copy.deepcopy(row_01_assigned_weight())


@case()
def row_22d_rewrapped_then_half():
    return row_06_a_new_parameter_over_the_weight().half()


@case()
def row_23_module_in_a_plain_list():
    model = Small()
    model.hidden = [model.emb]
    return model


@case()
def row_26_zero_size():
    return holding(a=torch.empty(0, 4), b=torch.empty(0, 4))


@case(("overlap", ["a", "b"]))
def row_27_two_arrays_over_one_memory():
    array = np.zeros(8, dtype=np.float32)
    return holding(a=torch.from_numpy(array), b=torch.from_numpy(array[2:]))


@case(("storage", ["a", "b"]))
def row_27b_one_array_twice():
    array = np.zeros(8, dtype=np.float32)
    return holding(a=torch.from_numpy(array), b=torch.from_numpy(array))


@case(("parameter", ["0.w", "1.w"]))
def row_28_sparse():
    sparse = nn.Parameter(torch.eye(3).to_sparse())
    model = nn.Sequential(nn.Module(), nn.Module(), holding(w=torch.eye(3).to_sparse()))
    model[0].w = model[1].w = sparse
    return model


@case()
def row_29_modules_without_parameters():
    act = nn.ReLU()
    return nn.Sequential(act, act, nn.Sequential(act))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_verdict(name):
    build, expected = CASES[name]
    model = build()
    before = [(n, id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)]
    assert [(tie.kind, list(tie.names)) for tie in find_live_ties(model)] == expected
    assert [(n, id(p), p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)] == before
    collect_live(model, origin="given")


def test_what_a_tie_says():
    model = Small().half()
    model.lin.weight = nn.Parameter(model.emb.weight, requires_grad=False)
    (tie,) = find_live_ties(model)
    assert tie.names_total == 2
    assert (tie.shape, tie.dtype, tie.nbytes, tie.device) == ((8, 4), "float16", 64, "cpu")
    assert tie.requires_grad == (True, False)
    assert tie.registrations == (Registration("Embedding", "weight"), Registration("Linear", "weight"))
    assert not tie.buffer
    assert tie.reason is None


def test_one_registration_means_that_aliases_make_the_names():
    assert [len(tie.registrations) for tie in find_live_ties(row_04_one_block_three_times())] == [1, 1]
    assert [len(tie.registrations) for tie in find_live_ties(row_03_alias_and_parameter_tie())] == [2]


def test_a_lazy_tie_has_no_shape_yet():
    (tie,) = find_live_ties(row_14b_lazy_tied())
    assert (tie.shape, tie.nbytes, tie.dtype, tie.device) == (None, None, "float32", "cpu")


def with_buffers() -> nn.Module:
    model = Small()
    shared = torch.zeros(3)
    model.register_buffer("a", shared)
    model.register_buffer("b", shared, persistent=False)
    model.sub.register_buffer("w", model.emb.weight)
    model.lin.register_buffer("data", model.sub.weight.data)
    return model


def test_row_11_and_12_with_buffers():
    found = find_live_ties(with_buffers(), buffers=True)
    assert [(tie.kind, tie.names, tie.buffer) for tie in found] == [
        ("parameter", ("a", "b"), True),
        ("parameter", ("emb.weight", "sub.w"), False),
        ("storage", ("lin.data", "sub.weight"), False),
    ]
    assert find_live_ties(with_buffers()) == ()


def test_buffers_of_an_aliased_module():
    norm = nn.BatchNorm1d(2, affine=False)
    model = nn.Sequential(norm, norm)
    assert find_live_ties(model) == ()
    assert {(tie.kind, tie.buffer) for tie in find_live_ties(model, buffers=True)} == {("module", True)}
    assert len(find_live_ties(model, buffers=True)) == 3


class Wrapper(torch.Tensor):
    """A wrapper subclass that does not say what it wraps, so that its address raises."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        result = func(*[arg.inner if isinstance(arg, cls) else arg for arg in args], **(kwargs or {}))
        return cls(result) if isinstance(result, torch.Tensor) else result


class Open(Wrapper):
    """One that says it, as torchao's do."""

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Open(inner["inner"])


@pytest.mark.parametrize("wrapper", [Wrapper, Open])
def test_row_25_wrapper_subclasses_are_told_by_identity(wrapper):
    one = nn.Parameter(wrapper(torch.ones(3)))
    with pytest.raises(RuntimeError, match="invalid python storage"):
        one.untyped_storage().data_ptr()
    model = nn.ParameterList([one, one, nn.Parameter(wrapper(torch.ones(3)))])
    assert [(tie.kind, tie.names) for tie in find_live_ties(model)] == [("parameter", ("0", "1"))]


def test_row_25b_wrappers_over_one_tensor():
    inner = torch.ones(3)
    assert find_live_ties(nn.ParameterList([nn.Parameter(Wrapper(inner)), nn.Parameter(Wrapper(inner))])) == ()
    (tie,) = find_live_ties(nn.ParameterList([nn.Parameter(Open(inner)), nn.Parameter(Open(inner))]))
    assert tie.kind == "storage"
    (tie,) = find_live_ties(nn.ParameterList([nn.Parameter(Open(inner)), nn.Parameter(Open(inner[:2]))]))
    assert tie.kind == "overlap"
    (tie,) = find_live_ties(nn.ParameterList([nn.Parameter(Open(inner)), nn.Parameter(inner)]))
    assert tie.kind == "storage"


@pytest.fixture
def mesh(tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_row_25_dtensor(mesh):
    from torch.distributed.tensor import Replicate, distribute_tensor

    whole, other = (distribute_tensor(torch.ones(4, 4), mesh, [Replicate()]) for _ in range(2))
    one = nn.Parameter(whole)
    assert [tie.kind for tie in find_live_ties(nn.ParameterList([one, one]))] == ["parameter"]
    assert [tie.kind for tie in find_live_ties(nn.ParameterList([one, nn.Parameter(whole)]))] == ["storage"]
    assert find_live_ties(nn.ParameterList([one, nn.Parameter(other)])) == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_row_22f_fully_sharded(mesh):
    from torch.distributed.fsdp import fully_shard

    model = row_01_assigned_weight()
    fully_shard(model, mesh=mesh)
    assert [(tie.kind, list(tie.names)) for tie in find_live_ties(model)] == [("parameter", EMB_LIN)]
    split = row_01_assigned_weight()
    fully_shard(split.lin, mesh=mesh)
    assert find_live_ties(split) == ()


def test_fake_tensors_are_not_asked_for_their_address():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = row_06_a_new_parameter_over_the_weight()
        other = Small()
        assert [tie.kind for tie in find_live_ties(model)] == ["storage"]
        assert find_live_ties(other) == ()
    assert [tie.kind for tie in find_live_ties(model)] == ["storage"]


def test_modes_of_the_caller_do_not_see_the_walk():
    from torch.overrides import TorchFunctionMode

    class Refuse(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            raise AssertionError(func)

    model = row_06_a_new_parameter_over_the_weight()
    with Refuse(), torch.inference_mode():
        assert [tie.kind for tie in find_live_ties(model)] == ["storage"]


def test_scripted_modules():
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.a(self.b(x))

    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        model = torch.jit.script(Scripted())
    assert [(tie.kind, tie.names) for tie in find_live_ties(model)] == [("parameter", ("a.weight", "b.weight"))]


def test_too_many_strided_views_are_unknown_not_guessed(monkeypatch):
    from tiecheck.files import strided_views

    monkeypatch.setattr(strided_views, "PAIRS", 0)
    (tie,) = find_live_ties(row_09e_interleaved_columns())
    assert tie.kind == "unknown"
    assert "too many steps" in tie.reason


def test_names_are_capped_and_counted():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False)] * 100)
    (tie,) = find_live_ties(model)
    assert len(tie.names) == 32
    assert tie.names == tuple(sorted(f"{i}.weight" for i in range(100))[:32])
    assert tie.names_total == 100
    assert find_live_ties(model, cap=2)[0].names == ("0.weight", "1.weight")


@pytest.mark.parametrize("wrong", [None, torch.ones(2), {"a": 1}])
def test_only_modules(wrong):
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module is wanted"):
        find_live_ties(wrong)


def test_a_cap_below_two_is_refused():
    with pytest.raises(ValueError, match="cap must be at least 2"):
        find_live_ties(Small(), cap=1)


def test_the_collector_is_left_as_it_was():
    import gc

    find_live_ties(Small())
    assert gc.isenabled()
    gc.disable()
    try:
        find_live_ties(Small())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_counts_and_origin():
    live = collect_live(row_03_alias_and_parameter_tie(), origin="built on meta")
    assert (live.class_name, live.origin) == ("Small", "built on meta")
    assert (live.declared, live.candidates, live.flag, live.library) == ((), (), None, None)


def test_transformers_is_not_imported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    collect_live(Small(), origin="given")
    assert "transformers" not in sys.modules
