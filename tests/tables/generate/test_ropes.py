"""What a rope type wants beside it: with that a class builds, and without it does not."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Gemma3TextModel, LlamaModel, Phi3Model, T5Model, ViTModel

from tiecheck.tables.generate.perturb import Perturber
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.ropes import rope_types, wanted_beside
from tiecheck.tables.structure import known_words, rope_needs


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")  # 5 says so, and reads it
@pytest.mark.parametrize("model_class", [LlamaModel, Phi3Model, Gemma3TextModel, T5Model, ViTModel])
def test_what_a_rope_type_wants_is_in_the_table(model_class: Any) -> None:
    kind = model_class.config_class.model_type
    asked = Perturber(Probe(model_class, model_class.config_class, {}))
    words = {field: taken for field, taken, _ in known_words(kind, "5")}
    for field, needs in rope_needs(kind, "5"):
        holder = tuple(field.split(".")[:-1])
        for word, keys in needs.items():
            assert wanted_beside(asked, holder, word) == keys, (field, word)  # `*` is no word, and is refused
        known = words.get(field, frozenset(rope_types()))
        assert {word for word in known - needs.keys() if wanted_beside(asked, holder, word) != []} == set()
