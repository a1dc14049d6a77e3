"""Classes of transformers with one fault each, the rule that says how they have to read, and their ties then."""

from __future__ import annotations

HEAD = "lm_head.weight"
PAIR = frozenset({HEAD, "model.embed_tokens.weight"})

IMPORTS = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

"""

LIST = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = [
        "lm_head.weight",  # as 4.x has it
    ]
"""

LIST_AND_METHOD = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = ["lm_head.weight"]

    def tie_weights(self):
        super().tie_weights()
        self.told = True
"""

IDLE_OLD = """
class Own(LlamaForCausalLM):
    def tie_weights(self):
        pass
"""

IDLE = """
class Own(LlamaForCausalLM):
    '''The first thing that one does about the TypeError of the other.'''

    def tie_weights(self, *args, **kw):
        pass
"""

ITSELF = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = {"lm_head.weight": "lm_head.weight"}
"""

NOTHING = """
class Own(LlamaForCausalLM):
    _tied_weights_keys = {"lm_head.weight": "model.embed_token.weight"}
"""

BESIDE = """
class Own(PreTrainedModel):
    config_class = LlamaConfig
    _tied_weights_keys = {"lin": "emb"}

    def __init__(self, config):
        super().__init__(config)
        self.emb = nn.Linear(4, 4, bias=False)
        self.lin = nn.Linear(4, 4, bias=False)
        self.lin2 = nn.Linear(4, 4, bias=False)
        self.post_init()
"""

UNDECLARED = """
class Own(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        attention = self.model.layers[0].self_attn
        attention.k_proj.weight = attention.q_proj.weight
"""

IN_A_LIST = """
class Own(PreTrainedModel):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.parts = nn.ModuleList([LlamaForCausalLM(config)])
        self.post_init()
"""

CHAIN = """
class Base(PreTrainedModel):
    config_class = LlamaConfig
    base_model_prefix = "model"


class Decoder(nn.Module):
    def __init__(self, config, embed_tokens):
        super().__init__()
        self.embed_tokens = embed_tokens
        self.mix = nn.Linear(16, 16)
        self.output_projection = nn.Linear(16, 32, bias=False)


class Model(Base):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(32, 16)
        self.decoder = Decoder(config, self.embed_tokens)
        self.post_init()


class Own(Base):
    _tied_weights_keys = {
        "model.decoder.embed_tokens.weight": "model.embed_tokens.weight",
        "model.decoder.output_projection.weight": "model.embed_tokens.weight",
        "lm_head.weight": "model.decoder.output_projection.weight",
    }

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(config)
        self.lm_head = self.model.decoder.output_projection

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def tie_weights(self):
        super().tie_weights()
        self.lm_head = self.model.decoder.output_projection
"""
"""A port with keys in a chain, whose head is a module of its decoder, and that calls no post_init()."""

CLASSES = {
    "list": (LIST, "TIE311", {PAIR}),
    "list-and-method": (LIST_AND_METHOD, "TIE311", {PAIR}),
    "idle-of-4": (IDLE_OLD, "TIE311", {PAIR}),
    "idle": (IDLE, "TIE301", {PAIR}),
    "itself": (ITSELF, "TIE309", {PAIR}),
    "nothing": (NOTHING, "TIE309", {PAIR}),
    "beside": (BESIDE, "TIE310", {frozenset({"lin.weight", "emb.weight"})}),
    "undeclared": (
        UNDECLARED,
        "TIE304",
        {PAIR, frozenset(f"model.layers.0.self_attn.{n}_proj.weight" for n in "kq")},
    ),
    "in-a-list": (IN_A_LIST, "TIE304", {frozenset(f"parts.0.{name}" for name in PAIR)}),
    "chain": (
        CHAIN,
        "TIE311",
        {PAIR | {f"model.decoder.{name}.weight" for name in ("embed_tokens", "output_projection")}},
    ),
}
