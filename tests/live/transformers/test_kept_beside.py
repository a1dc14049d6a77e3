"""What pruning, norms and parametrizations keep beside a member is no member, however a class writes its keys."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}


class ByModules(LlamaForCausalLM):
    """Its keys name modules, and match everything below."""

    _tied_weights_keys: ClassVar = {"lm_head": "model.embed_tokens"}


MODELS = (
    lambda: BertForMaskedLM(BertConfig(**SIZES)),
    lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    lambda: ByModules(LlamaConfig(**SIZES, tie_word_embeddings=True)),
)

SAME: tuple[Callable[[Any], Any], ...] = (
    nn.utils.spectral_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
    lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
)
"""What computes from the parameter that is tied, so that the tie is whole and its members differ."""

OWN = (nn.utils.weight_norm, parametrizations.weight_norm)
"""What makes another parameter over its memory."""


@pytest.mark.parametrize("seed", range(12))
def test_a_changed_member_is_one_finding(seed: int) -> None:
    """By class, by what changes the head or the embedding, and by what changes both."""
    draw = random.Random(seed)
    model, change = draw.choice(MODELS)(), draw.choice((*SAME, *OWN, *OWN))
    ends = [model.get_output_embeddings(), model.get_input_embeddings()]
    chosen = ends if change in OWN and draw.random() < 0.5 else [draw.choice(ends)]
    for layer in chosen:
        change(layer)
    (finding,) = tiecheck.check(model).findings
    assert finding.code == ("TIE302" if change in OWN else "TIE313")
    assert len(finding.names) == 2
