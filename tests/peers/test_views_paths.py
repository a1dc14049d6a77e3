"""The walks behind the views: like the tools' own on any graph, and told, not begun, where they never end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded import under_seed
from torch import nn

from tiecheck.peers.views import accelerate
from tiecheck.peers.views.registry import MODULES, ask_tools
from tiecheck.peers.views.tool_functions import error_words

ROOT = Path(__file__).parents[2]
FIND = "find_tied_parameters"


def recursive(model: nn.Module, known=None, prefix: str = "", result=None) -> dict[str, list[str]]:
    """`find_tied_parameters` as accelerate 0.33.0 has it."""
    result = {} if result is None else result
    if known is None:
        known = dict(model.named_parameters())
    else:
        for name, parameter in model.named_parameters():
            full = name if prefix == "" else f"{prefix}.{name}"
            if full not in known:
                for kept, other in known.items():
                    if other is parameter:
                        result.setdefault(kept, []).append(full)
    for name, child in model.named_children():
        recursive(child, known, name if prefix == "" else f"{prefix}.{name}", result)
    return result


@st.composite
def graphs(draw) -> nn.Module:
    """A module whose parts register each other's modules and parameters, without a cycle."""
    modules = [nn.Module() for _ in range(draw(st.integers(2, 7)))]
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(draw(st.integers(1, 4)))]
    for above in reversed(range(len(modules))):
        for label in draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3)):
            kind = draw(st.booleans())
            if kind and above + 1 < len(modules):
                below = draw(st.integers(above + 1, len(modules) - 1))
                modules[above].add_module(label, modules[below])
            else:
                modules[above].register_parameter(label, draw(st.sampled_from(parameters)))
    return modules[0]


def groups(views, algorithm: str) -> tuple[tuple[str, ...], ...]:
    (view,) = [v for v in views if v.function == FIND and v.algorithm == algorithm and v.version is None]
    assert view.error is None
    return view.groups


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_any_graph_is_seen_as_the_tools_see_it(model):
    views = ask_tools(model)
    theirs = recursive(model)
    assert groups(views, "0.18-0.33") == tuple(sorted(tuple(sorted({k, *names})) for k, names in theirs.items()))
    by_id: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), []).append(name)
    assert groups(views, "0.34-") == tuple(sorted(tuple(sorted(n)) for n in by_id.values() if len(n) > 1))


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_any_graph_is_seen_so_by_the_installed_tools(model):
    views = ask_tools(model, run=True)
    ours = {(v.tool, v.function, v.algorithm): v for v in views if v.version is None}
    for view in views:
        if view.version is not None and (view.tool, view.function, view.algorithm) in ours:
            assert view._replace(version=None, ran=False) == ours[view.tool, view.function, view.algorithm]


def doubled(depth: int, *, siblings: bool) -> nn.Module:
    """A chain that registers each module twice in the next: in one parent, or in two."""
    module: nn.Module = nn.Linear(2, 2, bias=False)
    for _ in range(depth):
        above = nn.Module()
        above.a = module
        above.b = module if siblings else nn.Sequential(module)
        module = above
    return module


@pytest.mark.parametrize("siblings", [True, False])
def test_a_chain_of_doublings_is_counted_not_walked(siblings):
    start = time.process_time()
    views = ask_tools(doubled(64, siblings=siblings), run=True)
    assert time.process_time() - start < 20  # imports included
    never = "would list 18446744073709551616 names: it never ends"
    for view in views:
        if view.says is not None:
            continue
        if siblings and view.algorithm == "0.18-0.33":
            assert (view.error, view.groups) == (None, ())  # `named_children` lists a sibling once
        else:
            assert not view.ran
            assert view.error == (f"not run: {never}" if view.version else never)


def test_a_chain_without_parameters_is_counted_in_paths():
    module = doubled(64, siblings=True)
    for part in module.modules():
        part._parameters.clear()
    (error,) = {v.error for v in ask_tools(module) if v.tool == "lightning"}
    assert error == "would walk 36893488147419103231 module paths: it never ends"


def test_doublings_that_do_end_are_followed():
    views = ask_tools(doubled(10, siblings=True), run=True)
    (ran,) = [view for view in views if view.function == FIND and view.ran]
    assert len(ran.groups[0]) == 1024
    assert groups(views, "0.34-") == ran.groups


def test_a_deep_module_raises_as_the_tools_do():
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(sys.getrecursionlimit()):
        module = nn.Sequential(module)
    views = ask_tools(module, run=True)
    assert {v.error for v in views if v.says is None} == {"RecursionError: maximum recursion depth exceeded"}
    assert {v.tool for v in views if v.ran} >= {"accelerate", "safetensors", "torch"}
    while len(module._modules):  # taken apart from the top: freeing it at once recurses
        module = module._modules.pop("0")


def test_a_cycle_beside_very_much_is_not_run():
    module = nn.ModuleList([nn.Linear(1, 1) for _ in range(1200)])
    module[0].back = module
    ran = [v for v in ask_tools(module, run=True) if v.version is not None and v.function == FIND]
    assert [v.error for v in ran] == ["not run: would go round a cycle with 1201 module paths until Python stops it"]


@pytest.mark.parametrize(
    ("modules", "pairs"), [(2_200, "1209999"), pytest.param(22_000, "120999999", marks=pytest.mark.slow)]
)
def test_accelerate_is_not_run_where_it_compares_for_minutes(monkeypatch, modules, pairs):
    if modules < 22_000:
        monkeypatch.setattr(accelerate, "COMPARISONS", 1_000_000)
    shared = nn.Parameter(torch.zeros(1))
    model = nn.ModuleList([nn.Module() for _ in range(modules)])
    for i, module in enumerate(model):
        module.w = shared if i % 2 else nn.Parameter(torch.zeros(1))
    (ran,) = [v for v in ask_tools(model, run=True) if v.version is not None and v.function == FIND]
    assert not ran.ran
    assert ran.error == f"not run: would compare {pairs} pairs of parameters"


def test_a_state_dict_of_its_own_may_raise():
    class Refusing(nn.Linear):
        def state_dict(self, *args, **kwargs):
            raise ValueError("not {'b', 'a'} today")

    views = ask_tools(Refusing(2, 2), run=True)
    errors = {v.function: v.error for v in views if v.error}
    assert set(errors) == {"clean_state_dict_for_safetensors", "_find_shared_tensors", "save_model"}
    assert set(errors.values()) == {"ValueError: not {'a', 'b'} today"}


def test_an_error_reads_the_same_from_run_to_run():
    assert error_words(RuntimeError("[{'b', 'a'}] and {'k': 'v'} at 0x7f00aa11bb22\n")) == (
        "RuntimeError: [{'a', 'b'}] and {'k': 'v'} at 0x..."
    )


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_same_under_two_hash_seeds(two_seeds):
    one, other = (said["views"] for said in two_seeds)
    assert one == other
    assert "accelerate" in str(one)


@pytest.mark.slow
def test_the_same_under_every_hash_seed():
    first, *others = (under_seed(seed, ["views", "states"]) for seed in range(5))
    assert [said for said in others if said != first] == []


def test_our_reproductions_import_none_of_the_tools():
    program = """
import sys
from torch import nn
from tiecheck.peers.views.registry import ask_tools
before = set(sys.modules)
ask_tools(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))
print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    assert set(eval(python(program))) & ({*MODULES, "lightning", "pytorch_lightning"} - {"torch"}) == set()


def test_reading_views_takes_no_torch():
    program = "import sys; from tiecheck.peers.views.registry import would_warn; print('torch' in sys.modules)"
    assert python(program) == "False\n"


def test_accelerate_does_not_log_what_it_removed(caplog):
    from accelerate import PartialState
    from accelerate.utils.other import clean_state_dict_for_safetensors

    PartialState(cpu=True)  # without one its logger raises
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, shared)
    dropped = [view.dropped for view in ask_tools(model, run=True) if view.ran and view.dropped]
    assert dropped == [("1.bias", "1.weight")] * 2
    assert caplog.records == []
    clean_state_dict_for_safetensors(model.state_dict())  # and by itself it does
    assert "Removed shared tensor" in caplog.text


def test_the_cost_grows_with_the_model():
    def cost(parameters: int) -> float:
        parts = [nn.Linear(1, 1, bias=False) for _ in range(parameters)]
        for i in range(0, parameters, 10):
            parts[i].weight = parts[i + 1].weight
        model = nn.Sequential(nn.ModuleList(parts[: parameters // 2]), nn.ModuleList(parts[parameters // 2 :]))
        taken = []
        for _ in range(3):
            start = time.process_time()
            ask_tools(model)
            taken.append(time.process_time() - start)
        return min(taken)

    small, large = cost(4_000), cost(16_000)
    assert large < 8 * small  # four times the model; four times four would be sixteen
