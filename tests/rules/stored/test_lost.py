"""TIE101 and TIE102 against their failures as transformers saves them; its own reload is the truth."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import transformers
from file_failures import t5
from rule_failures import codes, gpt2, judged, llama, set_flag
from safetensors.torch import save_file
from torch import nn

import tiecheck
from tiecheck.rules.stored.lost import TiedMemberLost, TrainedHeadDiscarded


class TestStored:
    def test_head_trained_apart_and_saved_with_the_flag_still_true(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        with torch.no_grad():
            model.lm_head.weight += 1
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == [f"{TrainedHeadDiscarded.code} error"]
        reloaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert reloaded.lm_head.weight is not reloaded.model.embed_tokens.weight, "transformers 5 keeps both"
        reloaded.tie_weights()
        assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight, "and any later tie throws the head away"

    def test_added_tokens_trained_in_the_embedding_alone(self, tmp_path: Path) -> None:
        model = llama()
        model.resize_token_embeddings(67)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        with torch.no_grad():
            model.model.embed_tokens.weight[64:] += 1
        model.save_pretrained(tmp_path)
        (finding,) = tiecheck.check(tmp_path).findings
        assert finding.code == TrainedHeadDiscarded.code
        assert "only the last 3 of 67 rows differ, from row 64 on" in finding.message

    @pytest.mark.parametrize("value", [False, None], ids=["flag-false", "flag-absent"])
    def test_flag_lost_on_the_way(self, tmp_path: Path, value: bool | None) -> None:
        llama().save_pretrained(tmp_path)
        set_flag(tmp_path, value)
        assert codes(tmp_path) == [f"{TiedMemberLost.code} error"]
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {"lm_head.weight"}

    def test_gpt2_without_the_flag_ties_by_default(self, tmp_path: Path) -> None:
        gpt2().save_pretrained(tmp_path)
        set_flag(tmp_path, None)
        assert codes(tmp_path) == []
        _, information = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not information["missing_keys"]

    def test_one_decoder_layer_stored_in_another_dtype_is_nobodys_business(self, tmp_path: Path) -> None:
        model = llama()
        model.model.layers[0].half()
        model.save_pretrained(tmp_path)
        assert codes(tmp_path) == []


class TestLoaded:
    """What a user sees who loads: the rules on files and on the live model must not contradict each other."""

    def test_head_trained_apart_gets_no_advice_that_would_destroy_it(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
        model.save_pretrained(tmp_path)
        assert codes(tmp_path, load=True) == [f"{TrainedHeadDiscarded.code} error"]

    def test_t5_with_a_head_of_its_own(self, tmp_path: Path) -> None:
        model = t5()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
        model.save_pretrained(tmp_path)
        set_flag(tmp_path, False)
        for options in ({}, {"live": True}, {"load": True}):
            assert codes(tmp_path, **options) == []
        (entry,) = tiecheck.check(tmp_path, load=True).targets[0].ties
        assert (entry.kind, entry.names_total, len(entry.names)) == ("separate", 4, 4)

    def test_copy_made_after_loading_is_still_found(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        assert codes(model) == ["TIE301 error"]


class TestNoPassWithoutProof:
    def test_neither_member_stored(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        names = {"lm_head.weight", "model.embed_tokens.weight"}
        tensors = {k: v.clone() for k, v in model.state_dict().items() if k not in names}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert judged(tmp_path) == ("fail", 1)
        assert codes(tmp_path) == [f"{TiedMemberLost.code} error"]

    def test_flag_that_is_text(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        set_flag(tmp_path, "false")
        assert judged(tmp_path) == ("fail", 1), "transformers 5 refuses it: TIE112"

    def test_bytes_that_were_not_to_be_read(self, tmp_path: Path) -> None:
        model = llama()
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
        model.save_pretrained(tmp_path)
        assert judged(tmp_path, "--values", "never", "--select", "TIE1") == ("fail", 1)


def test_of_a_group_that_4_57_ties_in_part_the_head_is_not_named_as_lost(tmp_path: Path) -> None:
    """As 4.57.6 loads a drawn class with false: its head as stored, or at random, and its tables as the shared one."""
    rng = random.Random(20261201)
    kind = rng.choice(("T5", "MT5", "UMT5"))
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)  # which writes true, whatever was given
    set_flag(tmp_path, False)
    tables = [f"{part}.embed_tokens.weight" for part in ("decoder", "encoder")]
    apart = rng.sample(tables, rng.choice((1, 2)))
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name in ("lm_head.weight", "shared.weight", *apart):
        state[name] = torch.randn(64, 16)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (finding,) = tiecheck.check(tmp_path).findings
    assert finding.code == "TIE101"
    assert "transformers 4.57 throws decoder.embed_tokens.weight and encoder.embed_tokens.weight away" in (
        finding.message
    )
    (edit,) = finding.edits
    gone = {name for step in edit.steps for name in step.names}
    assert gone == set(tables)
    left = {name: tensor for name, tensor in state.items() if name not in gone}
    save_file(left, tmp_path / "model.safetensors", {"format": "pt"})
    assert tiecheck.check(tmp_path).findings == ()
