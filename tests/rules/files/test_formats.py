"""TIE203 against its failure as the real libraries produce it, and the traps beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from file_failures import EMBEDDING, HEAD, bert, found, save, skipped, t5
from rule_failures import gpt2, llama
from safetensors.torch import load_file
from torch import nn

from tiecheck.rules.files.formats import FormatsDisagree


class TestFormats:
    """TIE203: one format was uploaded again, the other one forgotten."""

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_head_trained_apart_in_the_pickle_alone(self, tmp_path: Path, zipped: bool) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        state = dict(model.state_dict()) | {HEAD: model.lm_head.weight.detach() + 1}
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        (finding,) = found(tmp_path, FormatsDisagree.code)
        assert finding.severity == "warning"
        assert "pytorch_model.bin stores lm_head.weight and model.embed_tokens.weight as different" in finding.message
        assert "transformers reads model.safetensors" in finding.message
        first = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        second = transformers.LlamaForCausalLM.from_pretrained(tmp_path, use_safetensors=False)
        assert torch.equal(first.lm_head.weight, first.model.embed_tokens.weight)
        assert not torch.equal(second.lm_head.weight, second.model.embed_tokens.weight)

    def test_untied_and_safetensors_without_the_head(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        torch.save(tensors | {HEAD: tensors[EMBEDDING]}, tmp_path / "pytorch_model.bin")
        save({k: v for k, v in tensors.items() if k != HEAD}, tmp_path / "model.safetensors")
        (finding,) = found(tmp_path, FormatsDisagree.code)
        assert "Nothing ties lm_head.weight for whoever reads model.safetensors" in finding.message
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {HEAD}

    def test_memory_shared_in_the_pickle_and_parted_in_safetensors(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        state = dict(model.state_dict())
        gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
        torch.save(state | {up: state[gate]}, tmp_path / "pytorch_model.bin")
        (finding,) = found(tmp_path, FormatsDisagree.code)
        assert finding.names == (gate, up)

    def test_two_safetensors_layouts(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors") | {HEAD: torch.ones(64, 16)}
        save(tensors, tmp_path / "model-00001-of-00001.safetensors")
        weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        assert [f.severity for f in found(tmp_path, FormatsDisagree.code)] == ["warning"]

    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_both_formats_of_one_model(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        assert found(tmp_path, FormatsDisagree.code) == []
        assert skipped(tmp_path, FormatsDisagree.code) == []

    def test_both_formats_sharded(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path, max_shard_size="6KB")
        state = model.state_dict()
        parts = {"a.bin": [n for n in state if "layers" in n], "b.bin": [n for n in state if "layers" not in n]}
        for file, names in parts.items():
            torch.save({n: state[n] for n in names}, tmp_path / file)
        weight_map = {name: file for file, names in parts.items() for name in names}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        assert found(tmp_path, FormatsDisagree.code) == []
        assert skipped(tmp_path, FormatsDisagree.code) == []
        (tmp_path / "b.bin").unlink()
        assert found(tmp_path, FormatsDisagree.code) == []
        assert skipped(tmp_path, FormatsDisagree.code)

    def test_pickle_that_would_run_code_is_not_run(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)

        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "pwned"),)

        torch.save(Evil(), tmp_path / "pytorch_model.bin")
        (reason,) = skipped(tmp_path, FormatsDisagree.code)
        assert reason.startswith("pytorch_model.bin was not loaded: it is a pickle that")
        assert not (tmp_path / "pwned").exists()
