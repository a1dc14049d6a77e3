"""TIE108 against its failure as the real libraries produce it, and the traps beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from rule_failures import codes, llama
from safetensors.torch import load_file, save_file

from tiecheck.rules.stored.shapes import TiedShapeMismatch


class TestShapes:
    """TIE108: members that cannot be one tensor."""

    @staticmethod
    def rewrite(directory: Path, head: torch.Tensor) -> None:
        tensors = load_file(directory / "model.safetensors")
        save_file(tensors | {"lm_head.weight": head}, directory / "model.safetensors", metadata={"format": "pt"})

    def test_rows_of_padding_on_one_side(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        self.rewrite(tmp_path, torch.randn(72, 16))
        assert codes(tmp_path) == [f"{TiedShapeMismatch.code} error", "TIE207 error"]
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            transformers.LlamaForCausalLM.from_pretrained(tmp_path)

    def test_head_in_another_dtype(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        self.rewrite(tmp_path, model.lm_head.weight.detach().to(torch.bfloat16))
        assert codes(tmp_path) == [f"{TiedShapeMismatch.code} warning"]
        wide = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        narrow = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        tied = [m.lm_head.weight is m.model.embed_tokens.weight for m in (wide, narrow)]
        assert tied == [False, True], "the dtype asked for decides"

    def test_different_rows_untied_on_purpose(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path)
        self.rewrite(tmp_path, torch.randn(72, 16))
        assert codes(tmp_path) == ["TIE207 error"], "no tie is wrong, and it does not load"
        with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
            transformers.LlamaForCausalLM.from_pretrained(tmp_path)
