"""Ties that 4.57 alone makes and no group tells: no pass, and what real loads make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from older import older_python
from real_loads import older_loads
from safetensors.torch import load_file, save_file

from tiecheck.api import check
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.stored.lost_ties import untold_ties

TEXT: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
HEAD = "language_model.lm_head.weight"


def composed(name: str, encoder: dict[str, Any], *, tied: bool) -> Any:
    text = TEXT | {"model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": tied}
    config = getattr(transformers, f"{name}Config")(audio_config=encoder, text_config=text)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def voxtral(*, tied: bool) -> Any:
    own = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    encoder = own | {"model_type": "voxtral_encoder", "num_mel_bins": 8, "max_source_positions": 8}
    return composed("Voxtral", encoder, tied=tied)


def qwen2_audio(*, tied: bool) -> Any:
    own = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    encoder = own | {"model_type": "qwen2_audio_encoder", "num_mel_bins": 8, "max_source_positions": 8}
    return composed("Qwen2Audio", encoder, tied=tied)


def pair(*, tied: bool) -> Any:
    decoder = transformers.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(transformers.BertConfig(**TEXT), decoder)
    if tied:
        config.tie_encoder_decoder = True
    return transformers.EncoderDecoderModel(config=config)


def vilt(*, tied: bool) -> Any:
    del tied
    return transformers.ViltForMaskedLM(transformers.ViltConfig(**TEXT, image_size=16, patch_size=8))


def musicgen(*, tied: bool) -> Any:
    own = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    odd = {"ffn_dim": 24, "num_codebooks": 2, "bos_token_id": 0}
    config = transformers.MusicgenDecoderConfig(**own, **odd)
    config.tie_word_embeddings = tied
    return transformers.MusicgenForCausalLM(config)


def saved(make: Callable[..., Any], where: Path, *, tied: bool = True) -> Path:
    make(tied=tied).save_pretrained(where)
    return where


def status(where: Path, line: str) -> str:
    return str(check(where, judge_for=(f"transformers=={line}",)).targets[0].status)


@pytest.mark.parametrize(
    ("make", "gone"),
    [(voxtral, HEAD), (qwen2_audio, HEAD), (pair, "encoder."), (vilt, "mlm_score.decoder.bias")],
)
def test_what_4_57_saved_tied_5_makes_anew(make: Callable[..., Any], gone: str, tmp_path: Path) -> None:
    where = saved(make, tmp_path)
    file = where / "model.safetensors"
    stored = load_file(file)
    left = {name: tensor for name, tensor in stored.items() if not name.startswith(gone)}
    if make is vilt:
        left["mlm_score.bias"] = stored[gone]
    assert len(left) != len(stored) or make is vilt
    save_file(left, file, metadata={"format": "pt"})
    model, info = type(make(tied=True)).from_pretrained(where, output_loading_info=True)
    assert info["missing_keys"], type(model)
    assert status(where, "5") == "unknown"
    assert check(where).targets[0].status == "unknown"


@pytest.mark.parametrize("make", [voxtral, qwen2_audio, pair, musicgen])
def test_without_such_a_tie_a_save_passes(make: Callable[..., Any], tmp_path: Path) -> None:
    report = check(saved(make, tmp_path, tied=False)).targets[0]
    assert (report.status, report.findings) == ("pass", ())


@pytest.mark.slow  # it asks transformers 4.57
def test_what_4_57_makes_of_a_save_of_5(tmp_path: Path) -> None:
    with older_loads(older_python()) as real:
        for make in (voxtral, qwen2_audio, pair, vilt, musicgen):
            where = saved(make, tmp_path / make.__name__)
            names = load_file(where / "model.safetensors")
            seen = real(str(where), {name: name for name in names})
            assert seen.get("raised") or seen["left"] or seen["wrong"], (make.__name__, seen)
            assert status(where, "4.57") != "pass", make.__name__


@pytest.mark.parametrize("tied", [False, True])
def test_the_line_in_which_an_inner_head_is_not_told(tied: bool, tmp_path: Path) -> None:
    voxtral(tied=tied).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(HEAD, None)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = read_config(str(tmp_path))
    assert model is not None
    found = [(lines, HEAD in names) for lines, _, names in untold_ties(model, read_checkpoint(str(tmp_path)))]
    assert found == ([(("5",), True)] if tied else [])
