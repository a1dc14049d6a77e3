"""The names that transformers 4.57 reads of a file, by one prefix for the whole file and by the index alone."""

from __future__ import annotations

import pytest

from tiecheck.records.stored import Checkpoint
from tiecheck.rules.cases import sharded_checkpoint
from tiecheck.stored.older_names import as_older_reads, name_among_bare
from tiecheck.tables.architectures import load_older

WORDS, NORM, HEAD = "embed_tokens.weight", "norm.weight", "lm_head.weight"


def of(*names: str, unindexed: tuple[str, ...] = ()) -> Checkpoint:
    indexed = dict.fromkeys(names, "one") if unindexed else None
    return sharded_checkpoint({"one": (*names, *unindexed)}, indexed)


@pytest.mark.parametrize(
    ("class_name", "checkpoint", "read"),
    [
        ("LlamaForCausalLM", of(f"model.{WORDS}", f"model.{NORM}", HEAD), {f"model.{WORDS}", f"model.{NORM}", HEAD}),
        ("LlamaForCausalLM", of(WORDS, NORM), {WORDS, NORM}),  # a base model's own file: all get the prefix
        ("LlamaForCausalLM", of(WORDS, f"model.{NORM}"), {f"model.{NORM}"}),  # one name has it: none gets it
        ("LlamaForCausalLM", of(f"model.{WORDS}", unindexed=(HEAD,)), {f"model.{WORDS}"}),
        ("BartModel", of("model.shared.weight", "lm_head.weight"), {"model.shared.weight"}),  # a task's file
        ("BartModel", of("shared.weight"), {"shared.weight"}),
        ("FlavaForPreTraining", of("flava.norm.weight", "mim_head.bias"), {"flava.norm.weight", "mim_head.bias"}),
    ],
)
def test_the_names_that_are_read(class_name: str, checkpoint: Checkpoint, read: set[str]) -> None:
    assert set(as_older_reads(checkpoint, load_older(class_name, None)).names()) == read


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        ((WORDS, HEAD), HEAD),
        ((WORDS, "lm_head.bias"), "lm_head.bias"),
        ((f"model.{WORDS}", HEAD), None),
        ((WORDS, NORM), None),
    ],
)
def test_a_head_among_bare_names_is_refused(names: tuple[str, ...], refused: str | None) -> None:
    assert name_among_bare(of(*names), load_older("LlamaForCausalLM", None), "model", ()) == refused


def test_an_inner_language_model_is_no_base_model_without_its_prefix() -> None:
    names = ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
    older = load_older("VoxtralForConditionalGeneration", "voxtral", config={})
    assert name_among_bare(of(*names), older, "model", ("lm_head",)) is None  # as 4.57 saves it
