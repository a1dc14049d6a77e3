"""Values of a config as the library makes it, held against the library's own `from_dict`."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from tiecheck.records.words import Unknown
from tiecheck.stored.config_values import Refused, Section, field_value, open_section, walk_field

SECTIONS: list[dict[str, Any]] = [
    {},
    {"vision_config": None},
    {"vision_config": {}},
    {"vision_config": {"hidden_size": 96}},
    {"vision_config": {"model_type": "siglip_vision_model"}},
    {"text_config": {"model_type": "qwen2", "hidden_size": 64}},
    {"text_config": {"model_type": "gpt2", "hidden_size": 48}},
]


@pytest.mark.parametrize("data", SECTIONS, ids=str)
def test_a_section_has_the_numbers_that_the_library_gives_it(data: dict[str, Any]) -> None:
    made = transformers.LlavaConfig.from_dict(dict(data))
    root = Section("llava", data)
    for dotted in ("vision_config.hidden_size", "text_config.vocab_size", "text_config.hidden_size"):
        section, _, field = dotted.partition(".")
        found = walk_field(root, dotted, "5")
        assert isinstance(found, Unknown) or found == getattr(getattr(made, section), field)


def test_what_the_library_refuses_is_refused() -> None:
    root = Section("llava", {"text_config": {"model_type": None}})
    found = open_section(root, "text_config", "5")
    assert isinstance(found, Refused)
    assert found.why == "text_config has null for its model type"
    for held in ({"text_config": {"model_type": "no such type"}}, {"text_config": 3}):
        assert isinstance(open_section(Section("llava", held), "text_config", "5"), Unknown)
    assert isinstance(open_section(root, "no_section", "5"), Unknown)


def test_a_flat_config_is_read_as_the_section_that_is_made_of_it() -> None:
    flat = {"model_type": "qwen2_vl", "hidden_size": 64, "vocab_size": 99}
    made = transformers.Qwen2VLConfig.from_dict(dict(flat))
    section = open_section(Section("qwen2_vl", flat), "text_config", "5")
    assert isinstance(section, Section)
    assert field_value(section, "hidden_size", "5") == made.text_config.hidden_size == 64
    assert walk_field(Section("qwen2_vl", flat), "text_config.vocab_size", "5") == 99


def test_another_spelling_and_a_place_in_a_list() -> None:
    assert field_value(Section("gpt2", {"hidden_size": 48}), "n_embd", "5") == 48
    assert walk_field(Section("llama", {"sizes": [3, 5]}), "sizes.1", "5") == 5
    assert isinstance(walk_field(Section("llama", {"sizes": [3]}), "sizes.1", "5"), Unknown)
    assert isinstance(field_value(Section("llama", {}), "head_dim", "5"), Unknown), "the heads make it"
