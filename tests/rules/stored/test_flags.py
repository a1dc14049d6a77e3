"""TIE103, TIE104 and TIE105 against their failures as the libraries produce them, and the states beside them.

What transformers 5 makes of each directory is looked at here; what 4.57 makes of it is in the slow lane, in an
environment of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rule_failures import codes, set_flag
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.rules.stored.flags import ConflictingTieFlags, FlagMeansSomethingElse, ImplicitTieFlag

pytestmark = pytest.mark.filterwarnings("ignore")


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


TOWER = ["TIE206"]
"""What is said of every LLaVA of transformers 5: 4.57 has other names for its tower."""


def llava(where: Path, top: bool | None, text: bool | None) -> transformers.LlavaForConditionalGeneration:
    """A LLaVA saved tied, head absent, and its flags written anew; None takes a flag away."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SMALL), vision_config=vision, tie_word_embeddings=True
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.save_pretrained(where)
    path = where / "config.json"
    data = json.loads(path.read_text())
    for level, value in ((data, top), (data["text_config"], text)):
        level.pop("tie_word_embeddings", None)
        if value is not None:
            level["tie_word_embeddings"] = value
    path.write_text(json.dumps(data))
    return model


def t5(name: str = "T5ForConditionalGeneration") -> Any:
    """A tiny member of T5's family."""
    cls = getattr(transformers, name)
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = cls(cls.config_class(decoder_start_token_id=0, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1).add_(0.01 * torch.randn_like(parameter))
    return model


class TestConflictingFlags:
    """C03: a composite config whose levels disagree."""

    def test_the_top_ties_and_the_text_config_does_not(self, tmp_path: Path) -> None:
        model = llava(tmp_path, top=True, text=False)
        (finding,) = tiecheck.check(tmp_path, ignore=TOWER).findings
        assert (finding.code, finding.severity) == (ConflictingTieFlags.code, "error")
        assert "transformers 4.57" in (finding.hurts or ())
        assert [place.note for place in finding.locations][:2] == [
            "text_config.tie_word_embeddings is false",
            "tie_word_embeddings is true",
        ]
        loaded = type(model).from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight, "transformers 5 reads the top"

    def test_one_loader_alone_is_in_order(self, tmp_path: Path) -> None:
        llava(tmp_path, top=True, text=False)
        assert codes(tmp_path, judge_for="transformers==5", ignore=TOWER) == [f"{ConflictingTieFlags.code} info"]
        assert codes(tmp_path, judge_for="transformers==4.57", ignore=TOWER) == [f"{ConflictingTieFlags.code} error"]

    def test_both_levels_agree(self, tmp_path: Path) -> None:
        llava(tmp_path, top=True, text=True)
        assert codes(tmp_path, ignore=TOWER) == []


class TestImplicitFlag:
    """C04: an absent flag whose default differs."""

    def test_mt5_without_the_flag(self, tmp_path: Path) -> None:
        t5("MT5ForConditionalGeneration").save_pretrained(tmp_path)
        set_flag(tmp_path, None)
        assert codes(tmp_path) == [f"{ImplicitTieFlag.code} warning"]
        loaded = transformers.MT5ForConditionalGeneration.from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.shared.weight, "transformers 5 ties whatever the flag says"

    def test_a_flag_that_is_written_settles_it(self, tmp_path: Path) -> None:
        t5("MT5ForConditionalGeneration").save_pretrained(tmp_path)
        set_flag(tmp_path, True)
        assert codes(tmp_path) == []

    def test_a_default_that_never_changed(self, tmp_path: Path) -> None:
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path)
        set_flag(tmp_path, None)
        assert codes(tmp_path) == []


class TestFlagThatMeansSomethingElse:
    """C05: T5's false, and trap 8 beside it."""

    def test_a_t5_that_is_stored_once(self, tmp_path: Path) -> None:
        t5().save_pretrained(tmp_path)
        set_flag(tmp_path, False)
        assert codes(tmp_path) == [f"{FlagMeansSomethingElse.code} warning"]

    def test_a_t5_1_1_stores_its_own_head(self, tmp_path: Path) -> None:
        t5().save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["lm_head.weight"] = tensors["shared.weight"] + 0.1
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        set_flag(tmp_path, False)
        assert codes(tmp_path) == []

    def test_a_bert_of_4_57_whose_bias_was_tied_all_along(self, tmp_path: Path) -> None:
        config = transformers.BertConfig(**SMALL, tie_word_embeddings=False)
        model = transformers.BertForMaskedLM(config)
        with torch.no_grad():
            model.cls.predictions.bias.fill_(0.5)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors.pop("cls.predictions.decoder.bias", None)  # 4.57 holds one parameter, and stores it once
        tensors["cls.predictions.decoder.weight"] = model.cls.predictions.decoder.weight.detach().clone()
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert codes(tmp_path) == [f"{FlagMeansSomethingElse.code} error"]
        loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path)
        assert not torch.equal(loaded.cls.predictions.decoder.bias, model.cls.predictions.bias), "it came out anew"
