"""Untouched saves of drawn configs fit them: what is built of another type, list or number is no wrong size."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

import tiecheck

T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
BARE = {"num_hidden_layers": 1, "num_attention_heads": 2}
FSMT_SIDE = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
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


def narrow_sam(layers: int, apart: list[int]) -> Any:
    width = {"hidden_size": 16, "mlp_dim": 16, "output_channels": 8, "num_pos_feats": 4}
    places = {"image_size": 64, "patch_size": 8, "window_size": 2, "global_attn_indexes": apart}
    counts = {"num_hidden_layers": layers, "num_attention_heads": 2}
    sections = {
        "vision_config": transformers.SamVisionConfig(**width, **places, **counts),
        "prompt_encoder_config": transformers.SamPromptEncoderConfig(
            hidden_size=8, image_size=64, patch_size=8, mask_input_channels=4
        ),
        "mask_decoder_config": transformers.SamMaskDecoderConfig(
            hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8
        ),
    }
    return transformers.SamModel(transformers.SamConfig(**sections))


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_a_list_names_has_a_size_of_its_own(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    layers = rng.randint(1, 4)
    apart = sorted({0, *rng.sample(range(layers), rng.randint(0, layers))})
    narrow_sam(layers, apart).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    edit(tmp_path, "vision_config.output_channels", 9)
    assert "TIE207" in errors(tmp_path)


def test_a_window_that_does_not_fit_is_still_told(tmp_path: Path) -> None:
    narrow_sam(2, [1]).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    edit(tmp_path, "vision_config.window_size", 3)
    assert "TIE207" in errors(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_layers_stand_elsewhere_where_a_list_is_longer_or_shorter(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    ratios = [rng.randint(4, 6) for _ in range(rng.choice((1, 2, 3, 4, 5)))]
    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_dim": 8, "codebook_size": 16, "num_lstm_layers": 1}
    sizes |= {"last_kernel_size": rng.choice((5, 7)), "kernel_size": rng.choice((3, 7))}
    transformers.EncodecModel(transformers.EncodecConfig(upsampling_ratios=ratios, **sizes)).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        books = any(name.startswith("quantizer.layers.0.") for name in file.keys())  # noqa: SIM118  # it is no dict
    assert books or len(ratios) == 1, "one ratio may leave a rate that no codebook fits"
    edit(tmp_path, "codebook_size", 17)
    assert ("TIE207" in errors(tmp_path)) == books


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_positions_that_begin_after_the_padding_fit(pad: int, tmp_path: Path) -> None:
    sides = {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in FSMT_SIDE.items()}
    words = {"langs": ["en", "de"], "src_vocab_size": 40, "tgt_vocab_size": 40, "pad_token_id": pad}
    config = transformers.FSMTConfig(**words, **sides, d_model=16, max_position_embeddings=32)
    transformers.FSMTForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "TIE207" not in errors(tmp_path)
    edit(tmp_path, "max_position_embeddings", 33)
    with pytest.raises(RuntimeError, match="mismatch"):
        transformers.FSMTForConditionalGeneration.from_pretrained(tmp_path)
    assert "TIE207" in errors(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_heads_beyond_the_number_of_codes_are_not_asked_for(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    total = rng.randint(3, 8)
    given = rng.randint(1, total - 1)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "block_size": 20}
    words = {"input_vocab_size": 40, "output_vocab_size": 40}
    config = transformers.BarkFineConfig(n_codes_total=total, n_codes_given=given, **sizes, **words)
    transformers.BarkFineModel(config).save_pretrained(tmp_path)
    assert errors(tmp_path) == []
    tensors = load_file(tmp_path / "model.safetensors")
    last = total - given - 1
    left = {k: v for k, v in tensors.items() if f"lm_heads.{last}." not in k and f"embeds_layers.{last + 1}." not in k}
    assert len(left) < len(tensors)
    save_file(left, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "TIE110" in errors(tmp_path)
