"""Each tool's own module, on a tie by parameter and on one by module: each sees the pair."""

from __future__ import annotations

import pytest
from torch import nn

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.peers.views.lightning import PEERS as LIGHTNING
from tiecheck.peers.views.module_walks import names_by_tensor, refuse_endless_walk, walk_extent
from tiecheck.peers.views.peft import PEERS as PEFT
from tiecheck.peers.views.registry import ask_tools
from tiecheck.peers.views.safetensors import PEERS as SAFETENSORS
from tiecheck.peers.views.torch import PEERS as TORCH
from tiecheck.peers.views.transformers import PEERS as TRANSFORMERS

PAIR = ("emb.weight", "head.weight")


def model(*, alias: bool) -> nn.ModuleDict:
    made = nn.ModuleDict({"emb": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 4, bias=False)})
    if alias:
        made["head"] = made["emb"]
    else:
        made["head"].weight = made["emb"].weight
    return made


@pytest.mark.parametrize("alias", [False, True], ids=["parameter", "module"])
@pytest.mark.parametrize("peers", [LIGHTNING, SAFETENSORS, TORCH], ids=["lightning", "safetensors", "torch"])
def test_a_tool_that_goes_by_objects_or_memory_sees_the_pair(peers, alias: bool) -> None:
    functions = {peer.function for peer in peers}
    seen = [view for view in ask_tools(model(alias=alias), run=True) if view.function in functions and view.groups]
    assert seen
    assert {view.groups for view in seen} == {(PAIR,)}


@pytest.mark.parametrize("peers", [TRANSFORMERS, PEFT], ids=["transformers", "peft"])
def test_what_is_asked_of_pretrained_models_alone_sees_nothing(peers) -> None:
    functions = {peer.function for peer in peers}
    assert not [view for view in ask_tools(model(alias=False), run=True) if view.function in functions and view.groups]


def test_names_are_grouped_by_object_along_every_path() -> None:
    assert names_by_tensor(ModuleGraph(model(alias=False))) == [list(PAIR)]
    size = walk_extent(ModuleGraph(model(alias=True)), once=False)
    refuse_endless_walk(size)
