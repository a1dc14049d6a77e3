"""Fields that hold a word of the library: what a class takes is what it builds with."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaModel, OpenAIGPTModel, Wav2Vec2Model
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.openai.modeling_openai import ACT_FNS

from tiecheck.tables.generate.perturb import Perturber
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.words import by_sets, words_of_class
from tiecheck.tables.structure import known_words

ROPE = {"default", *ROPE_INIT_FUNCTIONS}


@pytest.mark.parametrize(
    ("model_class", "words"),
    [
        (LlamaModel, {"hidden_act": ({*ACT2FN}, True), "rope_parameters.rope_type": (ROPE, True)}),
        (OpenAIGPTModel, {"afn": ({*ACT_FNS}, True)}),
        (
            Wav2Vec2Model,
            {
                "feat_extract_activation": ({*ACT2FN}, True),
                "feat_extract_norm": ({"group", "layer"}, False),
                "hidden_act": ({*ACT2FN}, True),
            },
        ),
    ],
)
def test_what_a_class_takes_is_in_the_table(model_class: type, words: dict[str, tuple[set[str], bool]]) -> None:
    config_class = model_class.config_class  # type: ignore[attr-defined]  # each has one
    found = words_of_class(Perturber(Probe(model_class, config_class, {})))
    assert {field: (set(taken), table) for field, (taken, table) in found.items()} == words
    assert {field: (set(taken), table) for field, taken, table in known_words(config_class.model_type, "5")} == words


def test_fields_of_the_same_words_stand_together() -> None:
    sets: dict[str, Any] = {}
    words = {"one": (["a", "b"], True), "two": (["a", "b"], True), "three": (["a"], False)}
    needs: dict[str, Any] = {"two": {"a": ["x"]}, "four": {"a": None, "c": ["x"]}}
    found = by_sets(words, needs, sets)
    told = {kind: list(fields.values()) for kind, fields in found.items()}
    assert told == {"e": [["one", "two"]], "c": [["three"]], "q": [["four"], ["two"]]}
    assert [sets[key] for key in found["q"]] == [{"a": None, "c": ["x"]}, {"a": ["x"]}]
    assert [sets[key] for key in (*found["e"], *found["c"])] == [["a", "b"], ["a"]]
