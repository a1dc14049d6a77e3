"""TIE106 and TIE109 against their failures as transformers saves them, and copies that are nobody's mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rule_failures import codes, gpt2, llama
from safetensors.torch import save_file
from torch import nn

import tiecheck
from tiecheck.rules.stored.copies import FlattenedTie, RedundantTiedCopy


class TestStored:
    def test_state_dict_written_whole_by_a_fine_tuning_script(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
        assert codes(tmp_path) == [f"{RedundantTiedCopy.code} info"]

    def test_state_dict_of_torch_save_keeps_the_tie(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        assert codes(tmp_path) == []
        (entry,) = tiecheck.check(tmp_path).targets[0].ties
        assert entry.stored == "storage"

    @pytest.mark.parametrize(
        ("make", "found"), [(llama, f"{FlattenedTie.code} info"), (gpt2, f"{FlattenedTie.code} warning")]
    )
    def test_untied_and_saved_before_any_training(self, tmp_path: Path, make, found: str) -> None:
        model = make()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == [found]

    def test_untied_on_purpose(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path)
        assert codes(tmp_path, live=True) == []
