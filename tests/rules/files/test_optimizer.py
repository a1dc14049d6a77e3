"""TIE204 against its failure as the real libraries produce it, and the traps beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from file_failures import EMBEDDING, HEAD, bert, found, save, save_config, skipped, t5, trained
from lanes import sampled
from rule_failures import codes, gpt2, llama
from safetensors.torch import load_file
from torch import nn

from tiecheck.rules.files.formats import TiedOptimizerStateSplit


def emptied() -> nn.Module:
    """O02: built on meta, then given memory name by name, which parts the tie."""
    whole = llama()
    with init_empty_weights():
        model = llama()
    model.to_empty(device="cpu")
    model.load_state_dict(whole.state_dict())
    buffers = dict(whole.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])  # what is not in the state dict would be whatever lay in memory
    return model


def cloned() -> nn.Module:
    """B03: a head that was given a tensor of its own, with the config still saying that it is tied."""
    model = llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def drop_head(directory: Path) -> None:
    """What a saver does that goes by the config: transformers 5.23 itself keeps a head that differs."""
    tensors = load_file(directory / "model.safetensors")
    tensors.pop(HEAD, None)
    save(tensors, directory / "model.safetensors")


SOUND = (llama, gpt2, t5, bert, lambda: llama(tied=False))


class TestOptimizer:
    """TIE204: the checkpoint looks clean, and only the optimizer knows."""

    @pytest.mark.parametrize(("optim", "make"), sampled(product(["adamw_torch", "adafactor"], [cloned, emptied]), 3))
    def test_b03_trainer_checkpoint_whose_saver_dropped_the_head(
        self, tmp_path: Path, make: Callable[[], nn.Module], optim: str
    ) -> None:
        checkpoint = trained(tmp_path, make(), optim=optim)
        drop_head(checkpoint)
        (finding,) = found(checkpoint, TiedOptimizerStateSplit.code)
        assert (finding.severity, finding.names) == ("error", (HEAD, EMBEDDING))
        assert "optimizer.pt holds 2 entries" in finding.message
        assert "of shape [64, 16], where a model with the tie has 1" in finding.message
        state = torch.load(checkpoint / "optimizer.pt")
        assert len(state["param_groups"]) == 2, "decay groups, by which Trainer orders its numbers"
        whole = torch.optim.AdamW(transformers.LlamaForCausalLM.from_pretrained(checkpoint).parameters())
        with pytest.raises(ValueError, match=r"different number of parameter groups|doesn't match the size"):
            whole.load_state_dict(state)

    @pytest.mark.parametrize(("make", "optim"), sampled(product(SOUND, ["adamw_torch", "adafactor", "sgd"]), 4))
    def test_sound_training(self, tmp_path: Path, make: Callable[[], nn.Module], optim: str) -> None:
        model = make()
        if isinstance(model, transformers.T5ForConditionalGeneration):
            model.config.decoder_start_token_id = 0
        checkpoint = trained(tmp_path, model, optim=optim)
        assert found(checkpoint, TiedOptimizerStateSplit.code) == []
        if optim != "sgd":
            assert skipped(checkpoint, TiedOptimizerStateSplit.code) == []

    def test_both_kept_is_a_note_beside_tie101(self, tmp_path: Path) -> None:
        checkpoint = trained(tmp_path, cloned())
        assert [f.severity for f in found(checkpoint, TiedOptimizerStateSplit.code)] == ["info"]
        assert "TIE101 error" in codes(checkpoint)

    def test_accelerate_state(self, tmp_path: Path) -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        for make, severities in ((cloned, ["error"]), (llama, [])):
            model = make()
            optimizer = torch.optim.AdamW(model.parameters())
            model, optimizer = accelerator.prepare(model, optimizer)
            ids = torch.arange(8)[None]
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            directory = tmp_path / make.__name__
            accelerator.save_state(str(directory))
            accelerator.free_memory()
            save_config(model, directory)
            drop_head(directory)
            assert (directory / "optimizer.bin").exists()
            assert [f.severity for f in found(directory, TiedOptimizerStateSplit.code)] == severities

    def test_part_of_the_model_trained_is_unknown(self, tmp_path: Path) -> None:
        model = cloned()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers" not in name)
        checkpoint = trained(tmp_path, model)
        drop_head(checkpoint)
        assert found(checkpoint, TiedOptimizerStateSplit.code) == []
        assert "its numbers name no parameter" in skipped(checkpoint, TiedOptimizerStateSplit.code)[0]

    def test_whole_state_dict_beside_a_sound_state(self, tmp_path: Path) -> None:
        model = llama()
        checkpoint = trained(tmp_path, model)
        save(model.state_dict(), checkpoint / "model.safetensors")
        assert "TIE106 info" in codes(checkpoint)
        assert found(checkpoint, TiedOptimizerStateSplit.code) == []
        assert skipped(checkpoint, TiedOptimizerStateSplit.code) == []

    @pytest.mark.parametrize("split", [False, True])
    def test_positions_of_the_embeddings_shape(self, tmp_path: Path, split: bool) -> None:
        sizes = {"vocab_size": 64, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        if split:
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        checkpoint = trained(tmp_path, model)
        drop_head(checkpoint)
        assert [f.severity for f in found(checkpoint, TiedOptimizerStateSplit.code)] == ["error"] * split
        assert skipped(checkpoint, TiedOptimizerStateSplit.code) == []

    def test_adapter_beside_its_own_state(self, tmp_path: Path) -> None:
        model = llama()
        model.requires_grad_(False)
        down, up = nn.Linear(16, 2, bias=False), nn.Linear(2, 64, bias=False)
        optimizer = torch.optim.AdamW([*down.parameters(), *up.parameters()])
        up(down(torch.ones(1, 16))).sum().backward()
        optimizer.step()
        model.save_pretrained(tmp_path)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        assert found(tmp_path, TiedOptimizerStateSplit.code) == []
        assert skipped(tmp_path, TiedOptimizerStateSplit.code) == []

    def test_frozen_embedding(self, tmp_path: Path) -> None:
        model = llama()
        model.model.embed_tokens.requires_grad_(False)
        checkpoint = trained(tmp_path, model)
        assert found(checkpoint, TiedOptimizerStateSplit.code) == []
        assert skipped(checkpoint, TiedOptimizerStateSplit.code) == []
