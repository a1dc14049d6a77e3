"""TIE205 against its failure as the real libraries produce it, and the traps beside it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from file_failures import HEAD, HEADS, SIZES, Copying, arguments, bert, found, save, save_config, skipped, t5, trained
from older import run_older
from rule_failures import codes, gpt2, judged, llama
from safetensors.torch import load_file, save_file
from torch import nn

from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target
from tiecheck.rules.files.loading import StrictLoadWillFail

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


def twice(model: nn.Module, where: Path) -> int:
    """Save a model with the base model's prefix once more before each name; how many there are."""
    model.save_pretrained(where)
    tensors = load_file(where / "model.safetensors")
    save({f"{model.base_model_prefix}.{name}": t for name, t in tensors.items()}, where / "model.safetensors")
    return len(tensors)


class TestStrict:
    """TIE205: wrappers' prefixes, and the message that is harmless."""

    @pytest.mark.parametrize("prefix", PREFIXES)
    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_every_name_under_a_wrapper(self, tmp_path: Path, prefix: str, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
        (finding,) = found(tmp_path, StrictLoadWillFail.code)
        assert finding.severity == "error"
        assert f"names begin with {prefix!r}" in finding.message
        _, information = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert information["missing_keys"] >= set(tensors), "transformers loads none of it"

    @pytest.mark.parametrize("make", [llama, gpt2, bert, lambda: llama(tied=False)])
    def test_the_base_models_prefix_once_more(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        """As a LightningModule that has the model as `model` saves it: transformers 5 reads all of it."""
        model = make()
        twice(model, tmp_path)
        _, information = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not information["missing_keys"]
        (finding,) = found(tmp_path, StrictLoadWillFail.code)
        assert (finding.severity, finding.hurts) == ("warning", ("transformers 4.57",))
        fix_target(str(tmp_path), Config(), FixOptions(apply=True, rehearse=False))
        assert codes(tmp_path) == []

    @pytest.mark.slow
    def test_4_57_reads_nothing_of_that(self, tmp_path: Path) -> None:
        load = "getattr(transformers, sys.argv[1]).from_pretrained(sys.argv[2], output_loading_info=True)[1]"
        code = f"import sys, transformers; print(len({load}['unexpected_keys']))"
        for make in (llama, gpt2, bert, lambda: llama(tied=False)):
            count = twice(model := make(), tmp_path)
            done = run_older("-c", code, type(model).__name__, str(tmp_path))
            assert done.stdout.split()[-1:] == [str(count)], done.stderr[-500:]

    def test_compiled_model_as_torch_names_it(self, tmp_path: Path) -> None:
        model = llama()
        model.save_pretrained(tmp_path)
        state = dict(torch.compile(model).state_dict())
        state.pop(f"_orig_mod.{HEAD}")
        save(state, tmp_path / "model.safetensors")
        (finding,) = found(tmp_path, StrictLoadWillFail.code)
        assert "as torch.compile leaves it" in finding.message
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(load_file(tmp_path / "model.safetensors"))

    @pytest.mark.parametrize("make", [llama, gpt2, t5, bert, lambda: llama(tied=False)])
    def test_i02_the_normal_form_gets_nothing(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        make().save_pretrained(tmp_path)
        assert found(tmp_path, StrictLoadWillFail.code) == []
        assert skipped(tmp_path, StrictLoadWillFail.code) == []

    @pytest.mark.parametrize("make", [llama, gpt2, bert])
    def test_names_that_transformers_itself_maps(self, tmp_path: Path, make: Callable[[], nn.Module]) -> None:
        model = make()
        model.save_pretrained(tmp_path)
        own = f"{model.base_model_prefix}."
        tensors = load_file(tmp_path / "model.safetensors")
        for rename in (lambda n: own + n, lambda n: n.removeprefix(own)):
            save({rename(n): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
            assert not [f for f in found(tmp_path, StrictLoadWillFail.code) if "transformers 5" in (f.hurts or ("",))]
            _, information = type(model).from_pretrained(tmp_path, output_loading_info=True)
            assert len(information["missing_keys"]) < len(tensors)

    def test_i05_trainer_resumes_and_says_missing(self, tmp_path: Path) -> None:
        checkpoint = trained(tmp_path, llama())
        (finding,) = found(checkpoint, StrictLoadWillFail.code)
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
        assert [f.severity for f in found(tmp_path, StrictLoadWillFail.code)] == ["info"]
        accelerator.load_state(str(tmp_path))
        assert model.lm_head.weight is model.model.embed_tokens.weight
        plain = load_file(tmp_path / "model.safetensors")
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "lm_head.weight"'):
            llama().load_state_dict(plain)

    def test_untied_training_gets_nothing(self, tmp_path: Path) -> None:
        assert found(trained(tmp_path, llama(tied=False)), StrictLoadWillFail.code) == []

    def test_class_that_nobody_knows_may_have_such_names(self, tmp_path: Path) -> None:
        llama().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["architectures"] = ["OurOwnForCausalLM"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        tensors = load_file(tmp_path / "model.safetensors")
        save({f"module.{n}": t for n, t in tensors.items()}, tmp_path / "model.safetensors")
        assert found(tmp_path, StrictLoadWillFail.code) == []

    def test_class_without_ties_is_told_when_it_is_built(self, tmp_path: Path) -> None:
        sizes = SIZES | {"num_labels": 2}
        model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**sizes, **HEADS))
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        assert found(tmp_path, StrictLoadWillFail.code, live=True) == []
        save({f"module.{n}": t for n, t in tensors.items()}, tmp_path / "model.safetensors")
        assert [f.severity for f in found(tmp_path, StrictLoadWillFail.code, live=True)] == ["error"]


class TestNoPass:
    def test_names_with_the_prefix_of_a_compiled_model(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.save_pretrained(tmp_path)
        tensors = {f"_orig_mod.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert judged(tmp_path) == ("fail", 1)
        assert codes(tmp_path) == [f"{StrictLoadWillFail.code} error"]
