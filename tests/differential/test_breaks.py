"""Ties broken in every way: each break is found, by the rule that knows it, and a tie that holds gets no finding.

What is true after a break is told by object, memory and values (`states.py`), and never by what the break was meant to
do: `half()` on one module leaves a tie whole. The slow lane and `tests/benchmarks/bench_live_zoo.py` take every class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from breaks import BREAKS, Group
from broken import outcomes, row_of
from lanes import sampled
from states import WORDS, state_of
from subjects import ClassCandidate, every
from torch import nn
from zoo import animal, by_name, own, tied_model

from tiecheck.tables.architectures import load_architecture

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "FSMTForConditionalGeneration",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "LukeForMaskedLM",
    "MarianMTModel",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
    "ZambaForCausalLM",
]
"""Pairs, groups of three and four, biases, composites, patterns and module names as keys."""

BAD = ("missed", "wrong kind", "false alarm")


@pytest.mark.parametrize("name", sampled(SAMPLE))
def test_every_break_of_a_class_is_found(name: str) -> None:
    found = [outcome for outcome, _ in outcomes(tied_model(animal(by_name(name))))]
    assert [outcome for outcome in found if outcome.word in BAD] == []
    assert {outcome.way for outcome in found if outcome.word != "not here"} >= BREAKS.keys() - SELDOM


SELDOM = {"one-of-several", "set-input-embeddings", "transposed-view"}
"""Ways that need a group of three, that of the input embeddings, or as many words as the embedding is wide."""


def test_a_square_tie_broken_by_a_transposed_view() -> None:
    row = row_of(by_name("LlamaForCausalLM"))
    (outcome,) = (o for o in row["outcomes"] if o["way"] == "transposed-view")
    assert (outcome["state"], outcome["word"]) == ("storage", "found")


STATES = {
    "equal-copy": "copy",
    "other-tensor": "separate",
    "parameter-of-the-same-memory": "storage",
    "data-of-the-other": "storage",
    "half-meta": "half meta",
    "deduplicated-into-meta": "half meta",
    "assign-clones": "copy",
    "assign-own-state": "storage",
    "pruned": "not effective",
    "parametrized": "not effective",
    "weight-normed": "storage",
    "spectral-normed": "not effective",
    "none-instead": "absent",
    "half-of-one-module": "one",
    "overwritten-on-conversion": "separate",
}


@pytest.mark.parametrize(("way", "state"), STATES.items())
def test_the_truth_is_told_by_identity_and_not_by_intent(way: str, state: str) -> None:
    model = tied_model(animal(by_name("LlamaForCausalLM")))
    names = ("lm_head.weight", "model.embed_tokens.weight")
    assert state_of(model, names) == "one"
    broken, _ = BREAKS[way].do(model, Group(names, names[0]))
    assert state_of(broken, names) == state


def test_the_truth_of_a_group_of_three() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "abc"})
    names = ("a.weight", "b.weight", "c.weight")
    assert state_of(model, names) == "separate"
    model.b.weight = model.a.weight
    assert state_of(model, names) == "some of several"
    model.c.weight = nn.Parameter(model.a.weight.detach())
    assert state_of(model, names) == "some of several, storage"
    model.c.weight = model.a.weight
    assert state_of(model, names) == "one"
    model.c.weight.requires_grad_(False)
    assert state_of(model, names) == "one"
    assert torch.equal(model.c.weight, model.a.weight)
    assert WORDS[state_of(model, names)] == ()


def broken_classes() -> Iterator[ClassCandidate]:
    """Every class that ties something, under its own config."""
    for candidate in every():
        if load_architecture(candidate.class_name, candidate.model_type).ties and own(candidate):
            yield candidate


@pytest.mark.slow
def test_every_break_of_every_class_is_found() -> None:
    wrong: dict[str, list[str]] = {}
    words: Counter[str] = Counter()
    for candidate in broken_classes():
        for outcome in row_of(candidate).get("outcomes", ()):
            words[outcome["word"]] += 1
            if outcome["word"] in BAD:
                told = f"{outcome['way']} of {outcome['names'][:2]}: {outcome['word']} {outcome['codes']}"
                wrong.setdefault(candidate.class_name, []).append(told)
    assert wrong == {}
    assert words["found"] > 6000
