"""Tiny models as files, and what one rule says of a directory."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
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
