"""TIE504: FSDP2 really shards, in one process over gloo; what raises is found before it does, and the fix trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rule_failures import llama
from tie_kinds import Param
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def codes(model: Any) -> list[str]:
    return [finding.code for finding in tiecheck.check(model).findings if finding.severity == "error"]


def apart(model: Any, mesh: Any) -> Any:
    fully_shard(model.model.embed_tokens, mesh=mesh)
    fully_shard(model.lm_head, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def test_two_groups_are_found_before_the_first_forward_pass_raises(mesh: Any) -> None:
    model = apart(llama(), mesh)
    assert codes(model) == ["TIE504"]
    model.tie_weights()
    assert codes(model) == ["TIE504"], "the groups stay"
    with pytest.raises(ValueError, match="another FSDP group"):
        model(torch.arange(4)[None])


def test_a_plain_model_in_two_groups(mesh: Any) -> None:
    model = Param()
    fully_shard(model.emb, mesh=mesh)
    fully_shard(model.lin, mesh=mesh)
    fully_shard(model, mesh=mesh)
    (finding,) = (one for one in tiecheck.check(model).findings if one.code == "TIE504")
    assert finding.names == ("emb.weight", "lin.weight")


def test_the_fix_trains_and_stays_one(mesh: Any) -> None:
    (finding,) = (one for one in tiecheck.check(apart(llama(), mesh)).findings if one.code == "TIE504")
    model = llama()
    for step in finding.edits[0].steps:
        exec(step.code.replace("])", "], mesh=mesh)"), {"model": model, "mesh": mesh})
    fully_shard(model, mesh=mesh)
    assert codes(model) == []
    ids = torch.arange(4)[None]
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.lm_head.weight.full_tensor(), model.model.embed_tokens.weight.full_tensor())


def test_a_guard_sees_the_split_and_the_note_goes_with_the_error(mesh: Any) -> None:
    model = llama()
    with pytest.raises(tiecheck.TieBroken, match="embed_tokens"), tiecheck.guard(model):
        apart(model, mesh)
