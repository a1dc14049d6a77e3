"""The truth table of the tools: every row really built, the installed tools and our reproductions held against it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn
from zoo_of_ties import ROWS, Row, Small, by_column, every_row

import tiecheck
from tiecheck.peers.views.registry import MODULES, ask_tools
from tiecheck.records.report import View

COLUMNS = {
    "B": ("accelerate", "find_tied_parameters", "0.18-0.33"),
    "C": ("accelerate", "find_tied_parameters", "0.34-"),
    "L": ("lightning", "find_shared_parameters", "2.6"),
    "S": ("safetensors", "_find_shared_tensors", "0.8"),
    "T": ("torch", "named_parameters", "2.13"),
    "F": ("torch", "functional_call", "2.13"),
}
"""A column of the table, in its order -> tool, function and algorithm."""

REPRODUCED = {"find_tied_parameters", "check_tied_parameters_in_config", "find_shared_parameters"}
CLEAN = ("accelerate", "clean_state_dict_for_safetensors", "0.25-")

pytestmark = pytest.mark.filterwarnings("ignore")  # the builders', and a process group's of one


def letter(view: View, row: Row) -> str:
    """A view in the table's words."""
    if view.error is not None:
        return "E"
    if not view.groups:
        return "-"
    if view.groups == row.truth:
        return "Y"
    return "p" if all(any(set(group) <= set(whole) for whole in row.truth) for group in view.groups) else "!"


@every_row
def test_our_own_verdict(built):
    row, model = built
    found = tiecheck.find_ties(model, buffers=True)
    assert {tie.kind for tie in found} == ({row.kind} if row.truth else set())
    if row.build.__name__ == "row_24_registered_cycle":
        assert not found
    assert tuple(tie.names for tie in found) == row.truth


@every_row
def test_the_table(built):
    row, model = built
    views = by_column(ask_tools(model, run=True))
    assert "".join(letter(views[column], row) for column in COLUMNS.values()) == row.sees
    clean = views[CLEAN]
    assert (None if clean.error else clean.dropped) == row.drops


@every_row
def test_the_installed_tools_see_what_we_say(built):
    """Whatever is installed is really run on every row, and differs from our reproduction in nothing."""
    _, model = built
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    views = ask_tools(model, run=True)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    ran = [view for view in views if view.version is not None]
    ours = by_column([view for view in views if view.version is None])
    for view in ran:
        if view.function in REPRODUCED:
            same = ours[view.tool, view.function, view.algorithm]
            assert view._replace(version=None, ran=False) == same
        assert view.ran or "not run" in view.error
    assert {"accelerate", "safetensors", "torch", "lightning"} <= {view.tool for view in ran if view.ran}
    assert ask_tools(model) == tuple(view for view in views if view.version is None)


@every_row
def test_fsdp_sees_what_one_unit_shares(built):
    row, model = built
    views = by_column(ask_tools(model))
    for function in ("fully_shard", "FullyShardedDataParallel"):
        assert letter(views["torch", function, "2.13"], row) == row.sees[list(COLUMNS).index("T")]


def test_what_raises_is_told():
    views = ask_tools(ROWS["08_transposed"].build(), run=True)
    shared = next(view for view in views if view.function == "_find_shared_tensors")
    assert shared.error.startswith("RuntimeError: view size is not compatible with input tensor's size and stride")


def test_nothing_but_modules():
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module is wanted"):
        ask_tools(torch.ones(2))


def test_the_public_function_runs_the_tools():
    views = tiecheck.views(Small())
    assert {"accelerate", "safetensors", "torch"} <= {view.tool for view in views if view.ran}
    assert views == ask_tools(Small(), run=True)


def test_every_module_of_views_is_registered():
    from pathlib import Path

    import tiecheck.peers.views.registry as package

    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert files - {"__init__", "registry", "module_walks", "differences", "tool_functions"} == set(MODULES)


def test_a_tool_that_is_not_installed_is_not_run(monkeypatch):
    import tiecheck.peers.views.registry as package

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(package, "version", missing)
    assert all(view.version is None for view in ask_tools(nn.Linear(2, 2), run=True))
