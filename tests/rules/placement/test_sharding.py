"""TIE504: FSDP2 really shards, in one process over gloo; what raises is found before it does, and the fix trains."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.utils.fsdp_utils import fsdp2_load_full_state_dict
from rule_failures import llama
from tie_kinds import Param
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import tiecheck
from tiecheck.rules.search import search_rules

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


def test_the_fix_of_a_plain_model_trains_too(mesh: Any) -> None:
    model = Param()
    for module in (model.emb, model.lin, model):
        fully_shard(module, mesh=mesh)
    (finding,) = (one for one in tiecheck.check(model).findings if one.code == "TIE504")
    assert finding.names == ("emb.weight", "lin.weight")
    with pytest.raises(ValueError, match="another FSDP group"):
        model(torch.arange(4)[None])
    model = mended(Param(), finding, mesh)
    model(torch.arange(4)[None]).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.lin.weight.full_tensor(), model.emb.weight.full_tensor())


def mended(model: Any, finding: Any, mesh: Any) -> Any:
    for step in finding.edits[0].steps:
        exec(step.code.replace("])", "], mesh=mesh)"), {"model": model, "mesh": mesh})
    fully_shard(model, mesh=mesh)
    assert codes(model) == []
    return model


def test_the_fix_trains_and_stays_one(mesh: Any) -> None:
    (finding,) = (one for one in tiecheck.check(apart(llama(), mesh)).findings if one.code == "TIE504")
    model = mended(llama(), finding, mesh)
    ids = torch.arange(4)[None]
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(model.lm_head.weight.full_tensor(), model.model.embed_tokens.weight.full_tensor())


def test_a_guard_sees_the_split_and_the_note_goes_with_the_error(mesh: Any) -> None:
    model = llama()
    with pytest.raises(tiecheck.TieBroken, match="embed_tokens"), tiecheck.guard(model):
        apart(model, mesh)


@pytest.mark.parametrize("form", ["one group", "two groups"])
def test_accelerate_loads_both_names_of_a_tie_into_two_tensors(form: str, mesh: Any) -> None:
    model = llama()
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to("meta").tie_weights()
    model = apart(model, mesh) if form == "two groups" else fully_shard(model, mesh=mesh)
    lead = SimpleNamespace(is_main_process=True)
    alone = {name: tensor for name, tensor in whole.items() if name != "lm_head.weight"}
    with pytest.raises(KeyError, match=r"lm_head\.weight"):
        fsdp2_load_full_state_dict(lead, model, alone)
    fsdp2_load_full_state_dict(lead, model, whole)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert codes(model) == (["TIE504"] if form == "two groups" else ["TIE301"])


class Twice(Param):
    """A tie that reentrant checkpointing reaches twice in one backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(self.emb.embedding_dim, self.emb.embedding_dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = checkpoint(self.lin, self.body(self.emb(ids)), use_reentrant=True)
        return checkpoint(lambda x: x @ self.lin.weight, hidden, use_reentrant=True)


def test_what_ddp_says_of_a_tensor_that_is_ready_twice_is_explained(mesh: Any) -> None:
    model = torch.nn.parallel.DistributedDataParallel(Twice())
    with pytest.raises(RuntimeError, match="ready only once") as raised:
        model(torch.arange(4)[None]).sum().backward()
    assert "use_reentrant=False" in str(search_rules(str(raised.value)))
    assert codes(model) == []


def test_what_gradients_per_sample_say_of_a_tie_is_explained() -> None:
    model = Param()
    values = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}

    def loss(values: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, values, (ids[None],)).sum()

    with pytest.raises(ValueError, match="which are tied") as raised:
        torch.vmap(torch.func.grad(loss), (None, 0))(values, torch.zeros(2, 3, dtype=torch.int64))
    assert "TIE401" in str(search_rules(str(raised.value)))
    assert codes(model) == []
