"""Tiny models that look trained, and what the tests of rules ask of a saved one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

import tiecheck


def llama(*, tied: bool = True) -> transformers.LlamaForCausalLM:
    """A tiny Llama that does not look untrained."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def gpt2() -> transformers.GPT2LMHeadModel:
    """A tiny GPT-2."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def codes(target: object, **options: object) -> list[str]:
    """Codes and severities of what is found."""
    report = tiecheck.check(target, **options)
    assert not report.errors
    return [f"{f.code} {f.severity}" for f in report.findings]


def set_flag(directory: Path, value: object) -> None:
    """Change the flag in a saved config; None takes it out."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.pop("tie_word_embeddings", None)
    if value is not None:
        config["tie_word_embeddings"] = value
    path.write_text(json.dumps(config))


def judged(directory: Path, *options: str) -> tuple[str, int]:
    """Status of a directory, and the exit status under `--strict`."""
    from click.testing import CliRunner

    from tiecheck.cli.main import cli

    status = tiecheck.check(directory).targets[0].status
    return status, CliRunner().invoke(cli, [str(directory), "--strict", *options]).exit_code
