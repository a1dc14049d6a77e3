"""Untouched saves of drawn configs fit them: what is built of another type, list or number is no wrong size."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

import tiecheck

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
BARE = {"num_hidden_layers": 1, "num_attention_heads": 2}
PLAIN = {"hidden_size": 16, "intermediate_size": 24, **BARE}
TEXTS: list[dict[str, Any]] = [
    {"model_type": "t5", "vocab_size": 48, "decoder_start_token_id": 0, **T5},
    {"model_type": "mt5", "vocab_size": 48, "decoder_start_token_id": 0, **T5},
    {"model_type": "opt", "vocab_size": 48, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, **BARE},
    {"model_type": "llama", "vocab_size": 48, **PLAIN},
]


def errors(where: Path) -> list[str]:
    (target,) = tiecheck.check(where).targets
    return [finding.code for finding in target.findings if finding.severity != "info"]


def edit(where: Path, key: str, value: object) -> None:
    config = json.loads((where / "config.json").read_text())
    section, _, last = key.rpartition(".")
    (config[section] if section else config)[last] = value
    (where / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["model_type"])
@pytest.mark.parametrize("family", ["Blip2", "InstructBlip", "InstructBlipVideo"])
def test_a_text_model_is_causal_or_sequence_to_sequence(family: str, text: dict[str, Any], tmp_path: Path) -> None:
    sections = {
        "text_config": dict(text),
        "vision_config": {"image_size": 16, "patch_size": 8, **PLAIN},
        "qformer_config": {"encoder_hidden_size": 16, "vocab_size": 20, **PLAIN},
    }
    config = getattr(transformers, f"{family}Config")(**sections, num_query_tokens=2)
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    model_class(config).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    size = "d_ff" if "d_ff" in text else "vocab_size"
    edit(tmp_path, f"text_config.{size}", text[size] - 1)
    with pytest.raises(RuntimeError, match="mismatch"):
        model_class.from_pretrained(tmp_path)
    assert "TIE207" in errors(tmp_path)


def test_a_decoder_that_the_library_refuses_is_still_told(tmp_path: Path) -> None:
    both = {"encoder": {"model_type": "bert", **PLAIN}, "decoder": {"model_type": "bert", "is_decoder": True, **PLAIN}}
    transformers.EncoderDecoderModel(transformers.EncoderDecoderConfig(**both)).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    lone = {"t5", "mt5", "umt5"} & MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys()
    edit(tmp_path, "decoder", {"model_type": random.Random(3).choice(sorted(lone)), **T5})
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        transformers.EncoderDecoderModel.from_pretrained(tmp_path)
    assert "TIE207" in errors(tmp_path)
