"""What a forward pass reads: each use of a tensor by its role, under the names it is reached by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from used_models import MODELS, Known

import tiecheck
from tiecheck.records.uses import Use, names_not_taken

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PAIR = ("lm_head.weight", "model.embed_tokens.weight")


def brief(uses: tuple[Use, ...], *names: str) -> list[tuple[Any, ...]]:
    """Role, turned, scale and names that lead to it, of each use of the tensor that has these names."""
    return [
        (u.role, u.transposed, None if u.scale is None else round(u.scale, 6), u.reached)
        for u in uses
        if u.names == tuple(sorted(names))
    ]


def llama(*, meta: bool = False, **more: Any) -> Any:
    config = transformers.LlamaConfig(**SMALL, **more)
    if not meta:
        return transformers.LlamaForCausalLM(config)
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_a_tied_llama_looks_up_and_multiplies(meta: bool) -> None:
    uses = tiecheck.uses(llama(meta=meta, tie_word_embeddings=True))
    assert brief(uses, *PAIR) == [("embedding", False, 1.0, PAIR[1:]), ("linear", False, 1.0, PAIR[:1])]
    assert {use.role for use in uses} == {"embedding", "linear", "other"}


def test_the_model_is_left_as_it_was() -> None:
    model = llama(tie_word_embeddings=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dictionaries = [(id(m._parameters), id(m._modules), set(m.__dict__)) for m in model.modules()]
    state = torch.get_rng_state()
    tiecheck.uses(model)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert dictionaries == [(id(m._parameters), id(m._modules), set(m.__dict__)) for m in model.modules()]
    assert not any(vars(parameter) for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Lambda(nn.Module):
    """A head in a closure, over the weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(8, 4)
        weight = self.wte.weight
        self.head = lambda x: F.linear(x, weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.wte(ids) * 2)


def test_a_copy_of_a_closure_reads_a_tensor_of_elsewhere() -> None:
    model = Lambda()
    own = tiecheck.uses(model)
    assert brief(own, "wte.weight") == [
        ("embedding", False, 2.0, ("wte.weight",)),
        ("linear", False, 1.0, ("wte.weight",)),
    ]
    copied = tiecheck.uses(copy.deepcopy(model))
    assert brief(copied, "wte.weight") == [("embedding", False, 2.0, ("wte.weight",))]
    (foreign,) = (use for use in copied if use.held == "nowhere")
    assert (foreign.names, foreign.role, foreign.shape) == ((), "linear", (8, 4))


def test_what_stops_every_pass_is_named() -> None:
    class Stops(nn.Linear):
        def forward(self, x: Any) -> Any:
            return torch.linalg.inv(super().forward(x).reshape(3, -1))

    with pytest.raises(tiecheck.TiecheckError, match=r"stopped in \w*reshape"):
        tiecheck.uses(Stops(4, 4), torch.zeros(2, 4))


def test_a_slot_that_no_pass_takes_is_told() -> None:
    class Slot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(8, 4)
            self.ff_out = self.wte

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return F.linear(self.wte(ids), self.wte.weight)

    uses = tiecheck.uses(Slot())
    assert [use.role for use in uses] == ["embedding", "linear"]
    assert names_not_taken(uses) == ("ff_out.weight",)


@pytest.mark.parametrize("known", MODELS, ids=lambda known: known.name)
def test_uses_are_those_written_down(known: Known) -> None:
    model = known.build()
    uses = tiecheck.uses(model, known.inputs)
    assert brief(uses, *known.names) == [(r, t, s if s is None else round(s, 6), by) for r, t, s, by in known.uses]
    assert not any(use.held == "nowhere" for use in uses)
