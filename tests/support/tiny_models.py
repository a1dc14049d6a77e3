"""Four tiny models of transformers that tie, and a plain one: what they hold and give."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

SMALL = {
    "LlamaForCausalLM": {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "GPT2LMHeadModel": {
        "vocab_size": 400,
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "T5ForConditionalGeneration": {
        "vocab_size": 400,
        "d_model": 32,
        "d_ff": 64,
        "num_layers": 3,
        "num_heads": 4,
        "d_kv": 8,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": True,
    },
    "BartForConditionalGeneration": {
        "vocab_size": 400,
        "d_model": 32,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
}
"""Class -> its config."""


class PlainNet(nn.Module):
    """A model of torch alone that ties, and declares nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.q_proj, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.q_proj(self.emb(x)))


def built(name: str = "LlamaForCausalLM", **more: Any) -> Any:
    """One of them, with the same draw each time."""
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**SMALL[name] | more)).eval()


def groups_of(model: nn.Module) -> list[tuple[str, ...]]:
    """The names that are one parameter, by object."""
    held: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), []).append(name)
    return [tuple(sorted(names)) for names in held.values() if len(names) > 1]


def logits(model: Any) -> torch.Tensor:
    """What it says to eight tokens."""
    ids = torch.arange(1, 9)[None]
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits
