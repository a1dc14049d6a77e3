"""What tiecheck says of live models of transformers 4.57, run in a Python that has it: prints one line of JSON."""

from __future__ import annotations

import json
import warnings

import torch
import transformers
from torch import nn

import tiecheck

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()

SMALL = {"vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}


def llama(**flags: bool) -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2, **flags))


def bert() -> transformers.BertForMaskedLM:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))


def t5() -> transformers.T5ForConditionalGeneration:
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))


def broken(model: nn.Module, name: str) -> nn.Module:
    owner = model.get_submodule(name)
    owner.weight = nn.Parameter(torch.ones_like(owner.weight))
    return model


def hand_tied() -> nn.Module:
    model = llama(tie_word_embeddings=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


MODELS = {
    "llama tied": llama(tie_word_embeddings=True),
    "llama untied": llama(tie_word_embeddings=False),
    "llama broken": broken(llama(tie_word_embeddings=True), "lm_head"),
    "llama by hand": hand_tied(),
    "bert": bert(),
    "bert broken": broken(bert(), "cls.predictions.decoder"),
    "t5": t5(),
    "t5 half": broken(t5(), "decoder.embed_tokens"),
}


def word(model: nn.Module) -> object:
    (report,) = tiecheck.check(model).targets
    return {
        "errors": [error.message for error in report.errors],
        "findings": {finding.code: finding.severity for finding in report.findings},
        "declared": [tie.kind for tie in report.ties if tie.declared],
        "skips": sorted({skip.code for skip in report.skips}),
    }


print(json.dumps({"version": transformers.__version__} | {name: word(model) for name, model in MODELS.items()}))
