"""TIE107, TIE110 and TIE111 against their failures as the libraries produce them, and a normal tie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import save_torch_state_dict
from rule_failures import codes, llama
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.rules.stored.names import KeptTheAliasName, OrphanedTieGroup

pytestmark = pytest.mark.filterwarnings("ignore")


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


class TestNames:
    """M07, B04 and C08: nothing stored, the alias stored, and the head not stored."""

    def test_neither_member_is_stored(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["model.embed_tokens.weight"]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert codes(tmp_path) == [f"{OrphanedTieGroup.code} error"]
        loaded, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert "model.embed_tokens.weight" in report["missing_keys"]
        assert not torch.equal(loaded.lm_head.weight, model.lm_head.weight)

    def test_a_base_model_checkpoint_has_other_names(self, tmp_path: Path) -> None:
        llama().model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
        assert codes(tmp_path) == []

    def test_the_hub_saver_keeps_the_first_name_of_the_alphabet(self, tmp_path: Path) -> None:
        model = llama()
        model.config.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
        save_torch_state_dict(model.state_dict(), str(tmp_path))
        assert "model.embed_tokens.weight" not in load_file(tmp_path / "model.safetensors")
        assert codes(tmp_path) == [f"{KeptTheAliasName.code} warning"]
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight), "5 swaps the roles"
        assert codes(tmp_path, judge_for="transformers==5") == [f"{KeptTheAliasName.code} info"]

    def test_a_normal_tie_is_no_finding(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        assert [code for code in codes(tmp_path) if not code.endswith("info")] == []

    @pytest.mark.parametrize("family", ["Gemma2", "Starcoder2", "Llama"])
    def test_a_config_that_names_no_class_leaves_no_name_out(self, family: str, tmp_path: Path) -> None:
        config = getattr(transformers, f"{family}Config")(**SMALL, pad_token_id=0, tie_word_embeddings=True)
        getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path)
        data = json.loads((tmp_path / "config.json").read_text())
        del data["architectures"]
        (tmp_path / "config.json").write_text(json.dumps(data))
        (found,) = tiecheck.check(tmp_path).targets
        assert (found.status, found.findings) == ("unknown", ())
        assert {view.outcome for view in found.loaders} <= {"unknown", "tied"}


class TestInert:
    """Upstream: classes of transformers 5.23 that have no tie any more, whatever the flag says."""

    def test_a_luke_saved_tied_by_4_57(self, tmp_path: Path) -> None:
        config = transformers.LukeConfig(**SMALL, entity_vocab_size=8, entity_emb_size=16, tie_word_embeddings=True)
        model = transformers.LukeForMaskedLM(config)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["lm_head.decoder.weight"]  # 4.57 ties it, and leaves it out
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        found = [f for f in tiecheck.check(tmp_path).findings if f.severity == "error"]
        assert [(f.code, f.names) for f in found] == [
            ("TIE102", ("lm_head.decoder.weight", "luke.embeddings.word_embeddings.weight"))
        ]
        assert "transformers 4.57 ties it all the same" in found[0].message
        _, report = transformers.LukeForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
        assert "lm_head.decoder.weight" in report["missing_keys"]
