"""Embeddings and heads of real models, against their own getters."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.declarations import PretrainedModel, heads_of
from tiecheck.live.transformers.tied_weights_keys import Keys

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16, "vocab_size": 24}


def models() -> dict[str, Any]:
    five = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=24)
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "untied llama": LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)),
        "bert": BertForMaskedLM(BertConfig(**SMALL)),
        "t5": T5ForConditionalGeneration(five),
    }


def placed(module: nn.Module) -> Registrations:
    return Registrations(module, buffers=False)


MODELS = models()
NO_KEYS = Keys({}, {}, (), None)


@pytest.mark.parametrize("name", MODELS)
def test_a_head_is_what_the_getters_give(name: str) -> None:
    model = MODELS[name]
    one = PretrainedModel(0, ("",), model, NO_KEYS)
    (head,) = heads_of([one], placed(model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    embedding, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert head.class_name == type(model).__name__
    assert {id(parameters[part]) for part in head.embedding} == {id(embedding)}
    assert {id(parameters[part]) for part in head.head} == {id(out)}
    assert head.same == (embedding is out)
    assert head.alike


def test_a_model_without_a_head_has_none() -> None:
    model = BertModel(BertConfig(**SMALL))
    assert heads_of([PretrainedModel(0, ("",), model, NO_KEYS)], placed(model)) == ()
