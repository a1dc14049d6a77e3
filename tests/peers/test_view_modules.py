"""Each tool's own module, on a tie by parameter and on one by module: the reproduction sees what the tool sees."""

from __future__ import annotations

import pytest
from torch import nn

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.peers.views import lightning, paths, safetensors, torch, transformers
from tiecheck.peers.views.registry import views_of

PAIR = ("emb.weight", "head.weight")


def model(*, alias: bool) -> nn.ModuleDict:
    made = nn.ModuleDict({"emb": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 4, bias=False)})
    if alias:
        made["head"] = made["emb"]
    else:
        made["head"].weight = made["emb"].weight
    return made


@pytest.mark.parametrize("alias", [False, True], ids=["parameter", "module"])
@pytest.mark.parametrize(
    "module", [lightning, safetensors, torch], ids=lambda module: module.__name__.rpartition(".")[2]
)
def test_a_tool_that_goes_by_objects_or_memory_sees_the_pair(module, alias: bool) -> None:
    functions = {peer.function for peer in module.PEERS}
    seen = [view for view in views_of(model(alias=alias)) if view.function in functions and view.groups]
    assert seen
    assert {view.groups for view in seen} == {(PAIR,)}


def test_transformers_is_asked_of_its_own_models_alone() -> None:
    functions = {peer.function for peer in transformers.PEERS}
    assert not [view for view in views_of(model(alias=False)) if view.function in functions and view.groups]


def test_names_are_grouped_by_object_along_every_path() -> None:
    assert paths.named(ModuleGraph(model(alias=False))) == [list(PAIR)]
    size = paths.extent(ModuleGraph(model(alias=True)), once=False)
    paths.check(size)
