"""Tiny models of transformers, and what is said of a live one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import tiecheck

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def config(**changes: Any) -> LlamaConfig:
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaConfig(
        **small, num_attention_heads=2, num_key_value_heads=2, **({"tie_word_embeddings": True} | changes)
    )


def small_llama(cls: type[Any] = LlamaForCausalLM, **changes: Any) -> Any:
    return cls(config(**changes))


def bart(**changes: Any) -> Any:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **changes))


def bert() -> Any:
    return BertForMaskedLM(
        BertConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )


def found(model: nn.Module, **options: Any) -> dict[str, str]:
    """Code -> severity of what is said of a model; nothing may crash or be skipped."""
    (report,) = tiecheck.check(model, **options).targets
    assert report.errors == ()
    return {finding.code: finding.severity for finding in report.findings}


def said(model: nn.Module, code: str) -> str:
    """The message of the one finding of a code."""
    (finding,) = [f for f in tiecheck.check(model).findings if f.code == code]
    return finding.message


def reloaded(model: Any, folder: Path) -> tuple[Any, set[str]]:
    """What comes back of a model, and the names that transformers says were missing."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    return again, set(info["missing_keys"])


def gpt(*, tied: bool) -> Any:
    class MyGPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte = nn.Embedding(8, 4)
            self.lm_head = nn.Linear(4, 8, bias=False)
            if tied:
                self.lm_head.weight = self.wte.weight

    return MyGPT()


class Outer(PreTrainedModel):
    """A model that keeps another one in a list, where its `post_init` does not look."""

    config_class = LlamaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.parts = nn.ModuleList([LlamaForCausalLM(config)])
        self.post_init()


class Direct(PreTrainedModel):
    """The same with the inner model as a direct attribute."""

    config_class = LlamaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.part = LlamaForCausalLM(config)
        self.post_init()
