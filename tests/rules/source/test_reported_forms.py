"""The code of ties that people reported as broken: each is found, on the line where it goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiecheck

HEADS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.lin = nn.Linear(d, d)

class Heads(nn.Module):
    def __init__(self, d=8, v=32, heads=4, depth=3):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(*([Block(d)] * depth), nn.Linear(d, v, bias=False)) for _ in range(heads)  # TIE813
        )
"""
CHAINED = """
from torch import nn
from transformers import PreTrainedModel

class Base(PreTrainedModel):
    base_model_prefix = "model"

class CausalLM(Base):
    _tied_weights_keys = {
        "model.decoder.output_projection.weight": "model.embed_tokens.weight",
        "lm_head.weight": "model.decoder.output_projection.weight",
    }

    def __init__(self, config):  # TIE814
        super().__init__(config)
        self.model = Model(config)
        self.lm_head = self.model.decoder.output_projection

    def tie_weights(self):  # TIE815
        super().tie_weights()
        self.lm_head = self.model.decoder.output_projection
"""
CLONED = """
import copy
from torch import nn

class Attn(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.rel_bias = table  # shared by all layers

class Encoder(nn.Module):
    def __init__(self, layer, n):
        super().__init__()
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(n)])

def build():
    table = nn.Embedding(6, 6)
    return Encoder(Attn(table), 3)  # TIE818
"""
DERIVED = """
from torch import nn
import torch.nn.functional as F

class TiedAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(8, 4, bias=False)
        t = self.enc.weight.t()
        self.dec_w = t.contiguous().detach()  # TIE816

    def forward(self, x):
        return F.linear(self.enc(x), self.dec_w)
"""
EMPTY = """
from transformers import LlamaForCausalLM

class QuantLlama(LlamaForCausalLM):
    def tie_weights(self):  # TIE815
        pass

class QuantLlama5(LlamaForCausalLM):
    def tie_weights(self, *args, **kw):  # TIE815
        pass
"""
OLMO = """
from torch import nn

class Wrapper(nn.Module):
    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer.ff_out = self.model.transformer.wte  # TIE801
"""
FORMS = {
    "one block many times": HEADS,
    "chained keys": CHAINED,
    "a clone of each layer": CLONED,
    "a tensor kept aside": DERIVED,
    "tie_weights with nothing": EMPTY,
    "the module for the weight": OLMO,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_line_of_a_reported_form_is_told(form: str, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(FORMS[form])
    lines = enumerate(FORMS[form].splitlines(), 1)
    due = [(line.partition("# ")[2], number) for number, line in lines if "# TIE8" in line]
    assert sorted((f.code, f.locations[0].line) for f in tiecheck.check(path).findings) == sorted(due)
