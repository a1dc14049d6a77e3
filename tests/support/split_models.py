"""Models whose ties device maps split, and memory that is enough for them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BIG = {0: 10**6, 1: 10**6, "cpu": 10**6}


class Net(nn.Module):
    """An embedding, a layer, and a head that shares the embedding's weight; or does not."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.emb = nn.Embedding(32, 16)
        self.body = nn.Linear(16, 16, bias=False)
        self.out = nn.Linear(16, 32, bias=False)
        if tied:
            self.out.weight = self.emb.weight

    def forward(self, ids: Any) -> Any:
        return self.out(self.body(self.emb(ids)))


def config(**changes: Any) -> LlamaConfig:
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    return LlamaConfig(
        **small, num_attention_heads=2, num_key_value_heads=2, **({"tie_word_embeddings": True} | changes)
    )


class Olmo(nn.Module):
    """OLMo's alias: the head is the embedding's module, and unused; or a layer of its own with its weight."""

    def __init__(self, *, own: bool = False) -> None:
        super().__init__()
        self.wte = nn.Embedding(32, 16)
        self.body = nn.Linear(16, 16, bias=False)
        self.ff_out: Any = nn.Linear(16, 32, bias=False) if own else self.wte
        self.ff_out.weight = self.wte.weight

    def forward(self, ids: Any) -> Any:
        return F.linear(self.body(self.wte(ids)), self.wte.weight)


class Sharing(LlamaForCausalLM):
    """A Llama whose layers share a matrix, and which does not say so."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        first, second = (layer.mlp for layer in self.model.layers)
        second.up_proj.weight = first.up_proj.weight
