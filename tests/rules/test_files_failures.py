"""TIE202 to TIE205 against their failures as the real libraries produce them, and the traps next to them.

The letters in the test names are the failures as the project counts them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from accelerate import init_empty_weights, load_checkpoint_in_model
from rule_failures import codes, gpt2, llama
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset

import tiecheck
from tiecheck.records.report import Finding

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


def t5() -> transformers.T5ForConditionalGeneration:
    """A tiny T5: four names, one tensor."""
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5ForConditionalGeneration(config)


def bert() -> transformers.BertForMaskedLM:
    """A tiny BERT."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, intermediate_size=32))


def found(target: Path, code: str, **options: object) -> list[Finding]:
    """The findings of one rule, after making sure that no rule crashed."""
    report = tiecheck.check(target, **options)
    assert not report.errors
    return [finding for finding in report.findings if finding.code == code]


def skipped(target: Path, code: str) -> list[str]:
    """Why one rule was skipped."""
    return [skip.reason for skip in tiecheck.check(target).targets[0].skips if skip.code == code]


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A safetensors file as transformers writes it."""
    save_file({k: v.detach().clone() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def save_config(model: transformers.PreTrainedModel, directory: Path) -> None:
    """The config as `save_pretrained` writes it, which names the class."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)


class TestStoredTwice:
    """TIE202: a script writes a head anew and leaves the old one in another shard."""

    @staticmethod
    def sharded(directory: Path, model: nn.Module) -> list[Path]:
        model.save_pretrained(directory, max_shard_size="6KB")
        shards = sorted(directory.glob("model-*.safetensors"))
        assert len(shards) > 2
        return shards

    @pytest.mark.parametrize(("name", "where"), [(HEAD, 0), (EMBEDDING, -1)], ids=["in-the-first", "in-the-last"])
    def test_new_tensor_beside_the_old_one(self, tmp_path: Path, name: str, where: int) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        holder = next(s for s in shards if name in load_file(s))
        other = shards[where]
        assert other != holder
        save(load_file(other) | {name: torch.full((64, 16), 2.0)}, other)
        (finding,) = found(tmp_path, "TIE202")
        assert finding.severity == "error"
        assert finding.names == (name,)
        assert "64 of 64 rows differ" in finding.message
        last = max(holder, other)
        assert f"what {last.name} has, the last file by name" in finding.message
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(model.get_parameter(name), load_file(last)[name]), "transformers lets the last file win"
        with init_empty_weights():
            empty = llama(tied=False)
        load_checkpoint_in_model(empty, tmp_path, device_map={"": "cpu"})
        assert torch.equal(empty.get_parameter(name), load_file(last)[name]), "and so does accelerate"

    def test_other_shape(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        save(load_file(shards[0]) | {"model.norm.weight": torch.ones(8)}, shards[0])
        (finding,) = found(tmp_path, "TIE202")
        assert "different shapes or types (float32 [8] and float32 [16])" in finding.message

    def test_equal_copy_is_a_note(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        head = next(load_file(s)[HEAD] for s in shards if HEAD in load_file(s))
        save(load_file(shards[0]) | {HEAD: head}, shards[0])
        assert [f.severity for f in found(tmp_path, "TIE202")] == ["info"]

    def test_bytes_that_were_not_to_be_read(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        save(load_file(shards[0]) | {HEAD: torch.ones(64, 16)}, shards[0])
        report = tiecheck.check(tmp_path, values="never")
        assert "TIE202" in {skip.code for skip in report.targets[0].skips}

    def test_shards_as_they_are_saved(self, tmp_path: Path) -> None:
        self.sharded(tmp_path, llama())
        assert codes(tmp_path) == []

    def test_pickled_shards(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.config.save_pretrained(tmp_path)
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
        torch.save({k: v for k, v in state.items() if k != HEAD}, tmp_path / one)
        torch.save({HEAD: state[HEAD], EMBEDDING: state[EMBEDDING] + 1}, tmp_path / two)
        index = {"metadata": {}, "weight_map": dict.fromkeys(state, one) | {HEAD: two}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (finding,) = found(tmp_path, "TIE202")
        assert finding.names == (EMBEDDING,)
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded.model.embed_tokens.weight, state[EMBEDDING] + 1)


class TestFormats:
    """TIE203: one format was uploaded again, the other one forgotten."""

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_head_trained_apart_in_the_pickle_alone(self, tmp_path: Path, zipped: bool) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        state = dict(model.state_dict()) | {HEAD: model.lm_head.weight.detach() + 1}
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        (finding,) = found(tmp_path, "TIE203")
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
        (finding,) = found(tmp_path, "TIE203")
        assert "Nothing ties lm_head.weight for whoever reads model.safetensors" in finding.message
        _, information = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] == {HEAD}

    def test_memory_shared_in_the_pickle_and_parted_in_safetensors(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        state = dict(model.state_dict())
        gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
        torch.save(state | {up: state[gate]}, tmp_path / "pytorch_model.bin")
        (finding,) = found(tmp_path, "TIE203")
        assert finding.names == (gate, up)

    def test_two_safetensors_layouts(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors") | {HEAD: torch.ones(64, 16)}
        save(tensors, tmp_path / "model-00001-of-00001.safetensors")
        weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert [f.severity for f in found(tmp_path, "TIE203")] == ["warning"]

    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_both_formats_of_one_model(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        assert found(tmp_path, "TIE203") == []
        assert skipped(tmp_path, "TIE203") == []

    def test_both_formats_sharded(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path, max_shard_size="6KB")
        state = model.state_dict()
        parts = {"a.bin": [n for n in state if "layers" in n], "b.bin": [n for n in state if "layers" not in n]}
        for file, names in parts.items():
            torch.save({n: state[n] for n in names}, tmp_path / file)
        weight_map = {name: file for file, names in parts.items() for name in names}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert found(tmp_path, "TIE203") == []
        assert skipped(tmp_path, "TIE203") == []
        (tmp_path / "b.bin").unlink()
        assert found(tmp_path, "TIE203") == []
        assert skipped(tmp_path, "TIE203")

    def test_pickle_that_would_run_code_is_not_run(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)

        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "pwned"),)

        torch.save(Evil(), tmp_path / "pytorch_model.bin")
        assert "holds no named tensors" in skipped(tmp_path, "TIE203")[0]
        assert not (tmp_path / "pwned").exists()


class Copying(Dataset):
    """Four sentences of eight tokens."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(index, index + 8)
        return {"input_ids": ids, "labels": ids}


def arguments(directory: Path, steps: int, **options: object) -> transformers.TrainingArguments:
    """A few steps with decay groups, on the CPU, silently."""
    return transformers.TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=2,
        weight_decay=0.1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )


def trained(directory: Path, model: nn.Module, **options: object) -> Path:
    """A checkpoint of transformers' own Trainer."""
    transformers.Trainer(model, arguments(directory, 2, **options), train_dataset=Copying()).train()
    return directory / "checkpoint-2"


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


class TestOptimizer:
    """TIE204: the checkpoint looks clean, and only the optimizer knows."""

    @pytest.mark.parametrize("make", [cloned, emptied])
    @pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
    def test_b03_trainer_checkpoint_whose_saver_dropped_the_head(
        self, tmp_path: Path, make: Callable[[], nn.Module], optim: str
    ) -> None:
        checkpoint = trained(tmp_path, make(), optim=optim)
        drop_head(checkpoint)
        (finding,) = found(checkpoint, "TIE204")
        assert (finding.severity, finding.names) == ("error", (HEAD, EMBEDDING))
        assert "optimizer.pt holds 2 entries" in finding.message
        assert "of shape [64, 16], where a model with the tie has 1" in finding.message
        state = torch.load(checkpoint / "optimizer.pt")
        assert len(state["param_groups"]) == 2, "decay groups, by which Trainer orders its numbers"
        whole = torch.optim.AdamW(transformers.LlamaForCausalLM.from_pretrained(checkpoint).parameters())
        with pytest.raises(ValueError, match=r"different number of parameter groups|doesn't match the size"):
            whole.load_state_dict(state)

    @pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd"])
    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_sound_training(self, tmp_path: Path, make: Callable[[], nn.Module], optim: str) -> None:
        model = make()
        if isinstance(model, transformers.T5ForConditionalGeneration):
            model.config.decoder_start_token_id = 0
        checkpoint = trained(tmp_path, model, optim=optim)
        assert found(checkpoint, "TIE204") == []
        if optim != "sgd":
            assert skipped(checkpoint, "TIE204") == []

    def test_both_kept_is_a_note_beside_tie101(self, tmp_path: Path) -> None:
        checkpoint = trained(tmp_path, cloned())
        assert [f.severity for f in found(checkpoint, "TIE204")] == ["info"]
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
            assert [f.severity for f in found(directory, "TIE204")] == severities

    def test_part_of_the_model_trained_is_unknown(self, tmp_path: Path) -> None:
        model = cloned()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers" not in name)
        checkpoint = trained(tmp_path, model)
        drop_head(checkpoint)
        assert found(checkpoint, "TIE204") == []
        assert "its numbers name no parameter" in skipped(checkpoint, "TIE204")[0]

    def test_whole_state_dict_beside_a_sound_state(self, tmp_path: Path) -> None:
        model = llama()
        checkpoint = trained(tmp_path, model)
        save(model.state_dict(), checkpoint / "model.safetensors")
        assert "TIE106 info" in codes(checkpoint)
        assert found(checkpoint, "TIE204") == []
        assert skipped(checkpoint, "TIE204") == []

    @pytest.mark.parametrize("split", [False, True])
    def test_positions_of_the_embeddings_shape(self, tmp_path: Path, split: bool) -> None:
        sizes = {"vocab_size": 64, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        if split:
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        checkpoint = trained(tmp_path, model)
        drop_head(checkpoint)
        assert [f.severity for f in found(checkpoint, "TIE204")] == ["error"] * split
        assert skipped(checkpoint, "TIE204") == []

    def test_adapter_beside_its_own_state(self, tmp_path: Path) -> None:
        model = llama()
        model.requires_grad_(False)
        down, up = nn.Linear(16, 2, bias=False), nn.Linear(2, 64, bias=False)
        optimizer = torch.optim.AdamW([*down.parameters(), *up.parameters()])
        up(down(torch.ones(1, 16))).sum().backward()
        optimizer.step()
        model.save_pretrained(tmp_path)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        assert found(tmp_path, "TIE204") == []
        assert skipped(tmp_path, "TIE204") == []

    def test_frozen_embedding(self, tmp_path: Path) -> None:
        model = llama()
        model.model.embed_tokens.requires_grad_(False)
        checkpoint = trained(tmp_path, model)
        assert found(checkpoint, "TIE204") == []
        assert skipped(checkpoint, "TIE204") == []


PREFIXES = ("module.", "model.module.", "pretrained_model.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """What transformers logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        transformers.logging.set_verbosity(before)


class TestStrict:
    """TIE205: wrappers' prefixes, and the message that is harmless."""

    @pytest.mark.parametrize("prefix", PREFIXES)
    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_every_name_under_a_wrapper(self, tmp_path: Path, prefix: str, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
        (finding,) = found(tmp_path, "TIE205")
        assert finding.severity == "error"
        assert f"names begin with {prefix!r}" in finding.message
        _, information = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] >= set(tensors), "transformers loads none of it"

    def test_compiled_model_as_torch_names_it(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        state = dict(torch.compile(model).state_dict())
        state.pop(f"_orig_mod.{HEAD}")
        save(state, tmp_path / "model.safetensors")
        (finding,) = found(tmp_path, "TIE205")
        assert "as torch.compile leaves it" in finding.message
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(load_file(tmp_path / "model.safetensors"))

    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_i02_the_normal_form_gets_nothing(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        make().save_pretrained(tmp_path)
        assert found(tmp_path, "TIE205") == []
        assert skipped(tmp_path, "TIE205") == []

    @pytest.mark.parametrize("make", [llama, gpt2, bert])
    def test_names_that_transformers_itself_maps(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        own = f"{model.base_model_prefix}."
        tensors = load_file(tmp_path / "model.safetensors")
        for rename in (lambda n: own + n, lambda n: n.removeprefix(own)):
            save({rename(n): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
            assert found(tmp_path, "TIE205") == []
            _, information = type(model).from_pretrained(tmp_path, output_loading_info=True)
            assert len(information["missing_keys"]) < len(tensors)

    def test_i05_trainer_resumes_and_says_missing(self, tmp_path: Path) -> None:
        checkpoint = trained(tmp_path, llama())
        (finding,) = found(checkpoint, "TIE205")
        assert (finding.severity, finding.names) == ("info", (HEAD,))
        model = llama()
        trainer = transformers.Trainer(model, arguments(tmp_path, 3), train_dataset=Copying())
        with messages() as lines:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert any("There were missing keys in the checkpoint model loaded: ['lm_head.weight']" in m for m in lines)
        assert model.lm_head.weight is model.model.embed_tokens.weight, "and it is harmless"

    def test_accelerate_resumes_without_a_word(self, tmp_path: Path) -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        model = llama()
        optimizer = torch.optim.AdamW(model.parameters())
        model, optimizer = accelerator.prepare(model, optimizer)
        accelerator.save_state(str(tmp_path))
        save_config(model, tmp_path)
        assert [f.severity for f in found(tmp_path, "TIE205")] == ["info"]
        accelerator.load_state(str(tmp_path))
        assert model.lm_head.weight is model.model.embed_tokens.weight
        plain = load_file(tmp_path / "model.safetensors")
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "lm_head.weight"'):
            llama().load_state_dict(plain)

    def test_untied_training_gets_nothing(self, tmp_path: Path) -> None:
        assert found(trained(tmp_path, llama(tied=False)), "TIE205") == []

    def test_class_that_nobody_knows_may_have_such_names(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["architectures"] = ["OurOwnForCausalLM"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        tensors = load_file(tmp_path / "model.safetensors")
        save({f"module.{n}": t for n, t in tensors.items()}, tmp_path / "model.safetensors")
        assert found(tmp_path, "TIE205") == []

    def test_class_without_ties_is_told_when_it_is_built(self, tmp_path: Path) -> None:
        sizes = SIZES | {"num_labels": 2}
        model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**sizes, **HEADS))
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        assert found(tmp_path, "TIE205", live=True) == []
        save({f"module.{n}": t for n, t in tensors.items()}, tmp_path / "model.safetensors")
        assert [f.severity for f in found(tmp_path, "TIE205", live=True)] == ["error"]
