"""The graph of modules: agreement with torch's own walk, aliased chains, cycles, paths and aliases."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiecheck.live.live_facts import collect_live, find_live_ties
from tiecheck.live.module_graph import COUNT_LIMIT, ModuleGraph

ATTRIBUTES = ("a", "b", "a-b", "a1", "B", "0", "10")


def chain(depth: int) -> nn.Module:
    """A chain in which each module registers the next one twice."""
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(depth):
        above = nn.Module()
        above.a, above.b = module, module
        module = above
    return module


def take_apart(module: nn.Module | None) -> None:
    """Free a deep chain from the top: freeing it at once recurses."""
    while module is not None:
        module._modules.pop("b", None)
        module = module._modules.pop("a", None)


@st.composite
def shared_models(draw: st.DrawFn) -> nn.Module:
    """A random module DAG: modules register later ones under random names, parameters come from a small pool."""
    size = draw(st.integers(1, 7))
    pool = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    modules = [nn.Module() for _ in range(size)]
    for i, module in enumerate(modules):
        for attribute in draw(st.lists(st.sampled_from(ATTRIBUTES), unique=True, max_size=3)):
            if i + 1 < size and draw(st.booleans()):
                module.add_module(attribute, modules[draw(st.integers(i + 1, size - 1))])
            else:
                module.register_parameter(attribute, draw(st.sampled_from([*pool, None])))
    return modules[0]


@given(shared_models())
@settings(max_examples=300, deadline=None)
def test_agrees_with_torch(model):
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    ties = find_live_ties(model, cap=10_000)
    assert [list(tie.names) for tie in ties] == sorted(sorted(names) for names in groups.values() if len(names) > 1)
    assert all(tie.names_total == len(tie.names) for tie in ties)
    registered: dict[int, set[tuple[int, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                registered.setdefault(id(parameter), set()).add((id(module), attribute))
    for tie in ties:
        places = registered[next(key for key, names in groups.items() if tie.names[0] in names)]
        assert tie.kind == ("module" if len(places) == 1 else "parameter")
        assert len(tie.registrations) == len(places)
    capped = find_live_ties(model, cap=2)
    assert [tie.names for tie in capped] == [tie.names[:2] for tie in ties]


@given(shared_models())
@settings(max_examples=150, deadline=None)
def test_paths_agree_with_torch(model):
    graph = ModuleGraph(model)
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    assert len(graph.modules) == len(paths)
    for number, module in enumerate(graph.modules):
        assert graph.paths(number) == len(paths[id(module)])
        expected = sorted(f"{path}." if path else "" for path in paths[id(module)])
        assert graph.prefixes(number, 10_000) == expected
        assert graph.prefixes(number, 2) == expected[:2]


def test_a_chain_of_64_doublings():
    model = chain(64)
    find_live_ties(chain(2))
    start = time.process_time()
    ties = find_live_ties(model)
    assert time.process_time() - start < 0.5  # 1 ms; the bound is for a busy machine
    assert [tie.names_total for tie in ties] == [2**64, 2**64]
    assert [len(tie.names) for tie in ties] == [32, 32]
    assert ties[0].names[0] == "a." * 64 + "bias"
    assert ties[0].names[1] == "a." * 63 + "b.bias"


@pytest.mark.parametrize("depth", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_chain_of_doublings_as_deep_as_no_recursion_goes(depth: int):
    model = chain(depth)
    start = time.process_time()
    live = collect_live(model, origin="given")
    assert time.process_time() - start < depth / 5_000  # 1.5 s for 100,000; the bound is for a busy machine
    assert [tie.names_total for tie in live.ties] == [COUNT_LIMIT, COUNT_LIMIT]
    assert live.aliases[0].paths == ("a", "b")
    take_apart(model)


def test_a_deep_plain_chain():
    model: nn.Module = nn.Linear(2, 2, bias=False)
    for _ in range(5_000):
        above = nn.Module()
        above.a = model
        model = above
    model.register_parameter("w", None)
    model.tied = nn.Module()
    module = model
    while "a" in module._modules:
        module = module.a
    model.tied.weight = module.weight
    (tie,) = find_live_ties(model)
    assert (tie.kind, tie.names_total) == ("parameter", 2)
    take_apart(model)


def cyclic() -> nn.Module:
    model = nn.Module()
    model.child = nn.Linear(2, 2, bias=False)
    model.child.parent = model
    return model


def test_a_registered_cycle_alone_is_no_tie():
    model = cyclic()
    with pytest.raises(RecursionError):
        list(model.named_parameters(remove_duplicate=False))
    live = collect_live(model, origin="given")
    assert live.ties == ()
    (alias,) = live.aliases
    assert alias.paths == ("", "child.parent")
    assert alias.paths_total is None
    assert alias.names == ("child.parent.child.weight", "child.weight")


def test_ties_in_a_cycle_have_endless_names():
    model = cyclic()
    model.other = model.child
    model.w = model.child.weight
    (tie,) = find_live_ties(model)
    assert tie.names == ("child.weight", "other.weight", "w")
    assert tie.names_total is None
    assert "below itself" in tie.reason


def test_a_module_that_registers_itself():
    model = nn.Linear(2, 2)
    model.me = model
    live = collect_live(model, origin="given")
    assert live.ties == ()
    assert [alias.paths for alias in live.aliases] == [("", "me")]


def test_a_tie_beside_a_cycle_is_finite():
    model = nn.Module()
    model.loop = nn.Module()
    model.loop.again = model.loop
    model.a, model.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    model.a.weight = model.b.weight
    (tie,) = find_live_ties(model)
    assert tie.names_total == 2
    live = collect_live(model, origin="given")
    assert live.aliases == ()


@st.composite
def tangled_models(draw: st.DrawFn) -> nn.Module:
    """Random modules that register any of each other, cycles and all."""
    modules = [nn.Module() for _ in range(draw(st.integers(1, 6)))]
    for module in modules:
        module.register_parameter("w", nn.Parameter(torch.ones(1)))
        for attribute in draw(st.lists(st.sampled_from(ATTRIBUTES), unique=True, max_size=3)):
            module.add_module(attribute, draw(st.sampled_from(modules)))
    return modules[0]


@given(tangled_models())
@settings(max_examples=60, deadline=None)
def test_cycles_of_any_shape_end(model):
    live = collect_live(model, origin="given")
    for tie in live.ties:
        assert len(tie.names) > 1
        assert len({id(model.get_parameter(name)) for name in tie.names}) == 1
    for alias in live.aliases:
        assert len({id(model.get_submodule(path)) for path in alias.paths}) == 1


def test_aliases_are_the_aliased_modules_not_what_is_below():
    block = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model = nn.Module()
    model.blocks = nn.ModuleList([block, block])
    model.last = block
    (alias,) = collect_live(model, origin="given").aliases
    assert alias.paths == ("blocks.0", "blocks.1", "last")
    assert (alias.paths_total, alias.class_name, alias.siblings) == (3, "Sequential", False)
    assert len(alias.names) == 12


def test_an_alias_below_an_alias_is_listed_for_its_own_registrations():
    inner = nn.Module()
    inner.wte = nn.Embedding(4, 2)
    inner.ff_out = inner.wte
    model = nn.ModuleList([inner, inner])
    first, second = collect_live(model, origin="given").aliases
    assert (first.paths, first.siblings) == (("0", "1"), True)
    assert (second.paths, second.siblings) == (("0.ff_out", "0.wte", "1.ff_out", "1.wte"), True)


def test_siblings_tell_what_accelerate_before_0_34_cannot_see():
    model = nn.Module()
    model.wte = nn.Embedding(4, 2)
    model.ff_out = model.wte
    assert collect_live(model, origin="given").aliases[0].siblings
    model.inner = nn.Module()
    model.inner.out = model.wte
    assert not collect_live(model, origin="given").aliases[0].siblings


def test_aliases_without_parameters_are_left_out():
    act = nn.ReLU()
    assert collect_live(nn.Sequential(act, act), origin="given").aliases == ()


@pytest.mark.parametrize("size", [10, 1100, 20_000])
def test_an_alias_is_found_wherever_the_walk_meets_it(size):
    layers = [nn.Identity() for _ in range(size)]
    head = nn.Linear(2, 2, bias=False)
    model = nn.ModuleList([head, *layers, head])
    (tie,) = find_live_ties(model)
    assert (tie.kind, tie.names) == ("module", ("0.weight", f"{size + 1}.weight"))
