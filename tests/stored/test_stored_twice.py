"""A tensor stored under two names that transformers reads as one: no pass where the values differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from zoo import animal, by_name, tied_model

from tiecheck.api import check
from tiecheck.records.report import TargetReport

CLASSES = (
    *("LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration", "BertForMaskedLM"),
    *("LlavaForConditionalGeneration", "Qwen2VLForConditionalGeneration", "BertModel"),
    "BertForSequenceClassification",
)
OLDER = {
    "LlavaForConditionalGeneration": ("model.language_model.", "language_model.model."),
    "Qwen2VLForConditionalGeneration": ("model.language_model.", "model."),
}
"""Beginning of a name in 5, and the one that 4.57 or an earlier line gave it."""


@cache
def small(name: str) -> Any:
    if name in CLASSES[-2:]:  # they tie nothing, and the zoo has none of those
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        return getattr(transformers, name)(transformers.BertConfig(vocab_size=48, **sizes))
    return tied_model(animal(by_name(name)))


def names_for(model: Any, name: str) -> Iterator[str]:
    """Names for a tensor: its own, one without the base model's prefix, with one more, an older one, one of nobody."""
    yield name
    prefix = f"{model.base_model_prefix}."
    yield from {name.removeprefix(prefix), f"{prefix}{name}"} - {name}
    new, old = OLDER.get(type(model).__name__, (name, f"aside.{name}"))
    if name.startswith(new):
        yield name.replace(new, old, 1)


def loaded(where: Path, model: Any, stored: dict[str, Any]) -> tuple[set[str], list[str]]:
    """The names that a real load leaves aside, as it has renamed them, and those whose values are the embedding's."""
    made, info = type(model).from_pretrained(where, output_loading_info=True)
    rows = made.get_input_embeddings().weight
    same = [n for n, t in stored.items() if t.shape == rows.shape and torch.equal(t, rows)]
    return set(info["unexpected_keys"]), same


def judged(where: Path) -> TargetReport:
    return check(where, judge_for=("transformers==5",)).targets[0]


@pytest.mark.parametrize("name", CLASSES)
def test_two_names_of_one_tensor(name: str, tmp_path: Path) -> None:
    model, file = small(name), tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path)
    stored = load_file(file)
    before = judged(tmp_path)
    assert before.status == "pass", before.reason
    rows = model.get_input_embeddings().weight
    own = next(n for n, p in model.named_parameters() if p is rows)
    names = [*names_for(model, own)]
    (member,) = (n for n in names if n in stored)
    read = 0
    for other in names:
        if other == member:
            continue
        for changed in (False, True):
            both = stored | {other: stored[member].clone() + changed}
            save_file(both, file, metadata={"format": "pt"})
            aside, same = loaded(tmp_path, model, both)
            report = judged(tmp_path)
            told = other in (report.reason or "") and member in (report.reason or "")
            assert (report.status, told) == (("unknown", True) if changed and not aside else ("pass", False))
            if told:
                assert f"of which 5 takes {same[0]}" in (report.reason or ""), (same, report.reason)
                read += 1
    assert read, json.dumps(sorted(stored))


@pytest.mark.parametrize(("values", "status"), [("never", "unknown"), ("auto", "pass")])
def test_equal_values_that_nobody_compared(values: Any, status: str, tmp_path: Path) -> None:
    small("LlamaForCausalLM").save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "embed_tokens.weight"
    stored = load_file(file)
    save_file(stored | {name: stored[f"model.{name}"].clone()}, file, metadata={"format": "pt"})
    fsspec.filesystem("memory").put(str(tmp_path), "/stored-twice", recursive=True)
    (far,) = check("memory://stored-twice", values=values).targets
    assert (far.status, "were not compared" in (far.reason or "")) == ("unknown", True)
    report = check(tmp_path, values=values).targets[0]
    assert (report.status, "were not compared" in (report.reason or "")) == (status, values == "never")
