"""Which modules a forward pass calls, told on meta; and that a pass leaves a model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tiecheck.records.uses import Uses
from tiecheck.trace.forward import called_modules
from tiecheck.trace.uses import trace_uses

SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {"vocab_size": 32, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}


def on_meta(cls: Any, config: Any) -> Any:
    with torch.device("meta"):
        return cls(config)


def test_the_embedding_comes_before_the_head() -> None:
    called = called_modules(on_meta(transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL)))
    assert called is not None
    assert (
        called.index("model.embed_tokens") < called.index("model.layers.0.self_attn.q_proj") < called.index("lm_head")
    )


def test_a_container_is_not_called_and_the_encoder_is_first() -> None:
    called = called_modules(on_meta(transformers.T5ForConditionalGeneration, transformers.T5Config(**T5)))
    assert called is not None
    assert "shared" not in called
    assert called.index("encoder.embed_tokens") < called.index("decoder.embed_tokens") < called.index("lm_head")


def test_the_module_is_left_as_it_was() -> None:
    model = on_meta(transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL)).train()
    called_modules(model)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


class Looks(nn.Module):
    """A model that looks at the values of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(8, 4)

    def forward(self, input_ids: Any) -> Any:
        return self.wte(input_ids) if input_ids.max().item() < 8 else None


class Needs(Looks):
    """A model that needs more than tokens."""

    def forward(self, input_ids: Any, boxes: Any) -> Any:
        return self.wte(input_ids) + boxes


@pytest.mark.parametrize("cls", [Looks, Needs])
def test_a_pass_that_does_not_come_through_tells_nothing(cls: Any) -> None:
    with torch.device("meta"):
        model = cls()
    assert called_modules(model) is None
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_with_values_is_not_run() -> None:
    assert called_modules(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))) is None


class Keeps(nn.Module):
    """A model that keeps what it computed, in every place there is, and puts another layer in."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.kept = nn.Embedding(8, 4), None
        self.by_length: dict[int, Any] = {}
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, input_ids: Any) -> Any:
        if self.kept is None:
            self.kept = self.wte.weight.t() * 1
            self.by_length[input_ids.shape[1]] = self.wte(input_ids)
            self.layer = nn.Linear(4, 4)
            self.wte.register_forward_hook(lambda *_: None)
            self.seen += 1
            self.seen = torch.ones(1)
        return self.wte(input_ids) @ self.kept


def test_what_a_forward_keeps_is_gone_afterwards() -> None:
    model = Keeps()
    before = [dict(vars(m)) for m in model.modules()]
    assert isinstance(trace_uses(model), Uses)
    assert [dict(vars(m)) for m in model.modules()] == before
    assert (model.kept, model.by_length, set(model._modules), model.seen.tolist()) == (None, {}, {"wte"}, [0.0])
    assert not model.wte._forward_hooks
    assert not model(torch.ones(1, 3, dtype=torch.long)).is_meta


def test_a_bigbird_keeps_its_attention() -> None:
    config = transformers.BigBirdConfig(**SMALL, attention_type="block_sparse", block_size=4, num_random_blocks=2)
    model = transformers.BigBirdForCausalLM(config)
    before = {name: type(m) for name, m in model.named_modules()}
    found = trace_uses(model)
    assert isinstance(found, Uses)
    assert {name: type(m) for name, m in model.named_modules()} == before
    assert not [use for use in found.uses if use.held == "nowhere"]
    assert trace_uses(model) == found
