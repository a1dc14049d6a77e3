"""TIE305 and TIE315: ties against what the config says, as transformers makes and loses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from live_failures import HEAD, Direct, bart, config, found, reloaded, said
from rule_failures import codes, llama
from transformers import (
    BigBirdPegasusConfig,
    BigBirdPegasusForCausalLM,
    CLIPVisionConfig,
    FSMTConfig,
    FSMTForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MT5ForConditionalGeneration,
    T5ForConditionalGeneration,
)

import tiecheck
from tiecheck.rules.live.flags import InertTieFlag, TieAgainstConfig


class TestHandTie:
    def test_hand_tie_under_a_false_flag_is_lost_by_the_next_save(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.lm_head.weight = model.model.embed_tokens.weight
        assert codes(model) == [f"{TieAgainstConfig.code} error"]
        model.save_pretrained(tmp_path)
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {"lm_head.weight"}
        assert codes(tmp_path) == ["TIE102 error"], "what the save left behind is found as well"

    def test_a_save_takes_frozen_tensors_over_one_memory_for_one(self, tmp_path: Path) -> None:
        model = llama(tied=False).requires_grad_(False)
        model.lm_head.weight.data = model.model.embed_tokens.weight.data
        assert codes(model) == [f"{TieAgainstConfig.code} error"]
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == ["TIE102 error"]

    def test_hand_tie_with_the_flag_set_is_sound(self) -> None:
        model = llama(tied=False)
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
        assert codes(model) == []


def test_a_hand_tie_against_an_inner_models_flag(tmp_path: Path) -> None:
    direct = Direct(config(tie_word_embeddings=False))
    direct.part.lm_head.weight = direct.part.model.embed_tokens.weight
    assert found(direct) == {TieAgainstConfig.code: "error"}
    _, missing = reloaded(direct, tmp_path)
    assert missing == {"part.lm_head.weight"}


def big_bird() -> BigBirdPegasusConfig:
    sizes = {"vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_layers": 1}
    return BigBirdPegasusConfig(**sizes, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)


def test_a_class_that_lost_its_declaration(tmp_path: Path) -> None:
    model = BigBirdPegasusForCausalLM(big_bird())
    assert model.config.tie_word_embeddings is True
    assert found(model) == {InertTieFlag.code: "info"}
    model.save_pretrained(tmp_path)
    assert all(
        f.severity == "info" for f in tiecheck.check(tmp_path, live=True).findings if f.code == InertTieFlag.code
    )

    model.lm_head.weight = model.get_input_embeddings().weight  # as 4.57 has it, which saves the embedding alone
    model._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    model.save_pretrained(tmp_path)
    _, info = BigBirdPegasusForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {HEAD}
    (finding,) = [f for f in tiecheck.check(tmp_path, live=True).findings if f.code == InertTieFlag.code]
    assert finding.severity == "error"


def test_a_flag_in_the_text_config_that_the_class_does_not_read() -> None:
    text = config()
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(text_config=text, vision_config=vision))
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert found(model) == {InertTieFlag.code: "info"}
    assert "config.text_config.tie_word_embeddings is true" in said(model, InertTieFlag.code)


def test_a_tie_that_one_flag_gates_since_transformers_5() -> None:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"src_vocab_size": 32, "tgt_vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = FSMTForConditionalGeneration(FSMTConfig(langs=["en", "de"], **sizes, **layers))
    assert model.config.tie_word_embeddings is False
    assert found(model) == {InertTieFlag.code: "info"}
    assert "4.57 ties them" in said(model, InertTieFlag.code)


def t5(cls: type[Any] = T5ForConditionalGeneration) -> Any:
    return cls(cls.config_class(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def vlm(cls: type[Any]) -> Any:
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return cls(cls.config_class(vision_config=vision, text_config=config(), tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("build", "lost"),
    [
        (t5, False),
        (lambda: t5(MT5ForConditionalGeneration), False),
        (lambda: vlm(LlavaForConditionalGeneration), False),
        (llama, True),
        (bart, True),
    ],
    ids=["t5", "mt5", "llava", "llama", "bart"],
)
def test_a_flag_set_false_in_memory_is_an_error_only_where_the_round_trip_loses(
    build: Callable[[], Any], lost: bool, tmp_path: Path
) -> None:
    model = build()
    model.config.tie_word_embeddings = False
    again, missing = reloaded(model, tmp_path)
    values = dict(again.named_parameters(remove_duplicate=False))
    pairs = model.named_parameters(remove_duplicate=False)
    assert lost == bool(missing) == (not all(torch.equal(values[name], p) for name, p in pairs))
    assert (TieAgainstConfig.code in found(model)) == lost
