"""The engines' table as it is read: every class of every section is found, and nothing beside; a flag at its level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from engine_sections import section
from hypothesis import given
from hypothesis import strategies as st
from situations import situation

from tiecheck.peers.loaders import engines
from tiecheck.peers.loaders.engines import (
    config_at_level,
    fields_in_both,
    fields_of,
    flag_at,
    inner_name,
    level_of,
    named_class,
    torch_policy,
)

SECTIONS = sorted(engines._sections())
KEYS = st.sampled_from(["text_config", "decoder", "vision_config", "tie_word_embeddings"])
INNER = st.dictionaries(KEYS, st.one_of(st.booleans(), st.just({})), max_size=3)
CONFIGS = st.dictionaries(KEYS, st.one_of(st.booleans(), INNER), max_size=3)


@pytest.mark.parametrize("of", SECTIONS, ids=" ".join)
def test_a_search_in_the_text_finds_what_the_parsed_section_holds(of: tuple[str, str]) -> None:
    for name, fields in section(*of).items():
        assert fields_of(*of, name) == fields
        assert fields_of(*of, name + "x") is None or name + "x" in section(*of)
        assert fields_of(*of, name[:-1]) is None or name[:-1] in section(*of)
    assert fields_of(*of, None) is None
    assert fields_of(*of, "") is None


@pytest.mark.parametrize("words", ["flag", "always", "load", "|", "text()"])
def test_a_word_of_the_fields_is_no_class(words: str) -> None:
    assert all(fields_of(*of, words) is None for of in SECTIONS)


def test_two_versions_agree_or_the_class_is_unknown_with_both_named() -> None:
    vllm = [version for engine, version in SECTIONS if engine == "vllm"]
    first, last = vllm[0], vllm[-1]
    both = section("vllm", first).keys() | section("vllm", last).keys()
    differ = {name for name in both if section("vllm", first).get(name) != section("vllm", last).get(name)}
    assert differ, "else this shows nothing"
    for name in both:
        found = fields_in_both("vllm", first, last, name)
        assert (found == f"unknown:vllm {first} and {last} treat this class differently") == (name in differ)
    assert fields_in_both("vllm", first, last, "NobodysModel") is None


def levels(config: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield above
    for key, value in config.items():
        if isinstance(value, dict):
            yield from levels(value, (*above, key))


@given(CONFIGS)
def test_a_flag_is_read_at_every_level_that_a_config_has_and_at_no_other(config: dict[str, Any]) -> None:
    asked = situation("LlamaForCausalLM", "differ", config)
    for level in levels(config):
        here = config
        for key in level:
            here = here[key]
        word = ".".join(level)
        assert config_at_level(config, word) == here
        written = here.get("tie_word_embeddings")
        read = flag_at(asked, word, "0")
        assert read.dotted == ".".join((*level, "tie_word_embeddings"))
        if isinstance(written, bool):
            assert read.value is read.ties is written
        else:
            assert read.value is None
    assert config_at_level(config, "gone.deeper") is None
    assert level_of(config, "gone.text()") is None


@pytest.mark.parametrize(
    ("config", "word", "level"),
    [
        ({}, "text()", ""),
        ({"text_config": {}}, "text()", "text_config"),
        ({"decoder": {}}, "text()", None),
        ({"a": {"text_config": {}}}, "a.text()", "a.text_config"),
        ({"a": {}}, "a.text()", "a"),
        ({"text_config": {}}, ">text_config", ""),
    ],
)
def test_the_text_config_is_the_one_that_transformers_would_give(config, word: str, level: str | None) -> None:
    assert level_of(config, word) == level


def test_an_absent_flag_that_the_engine_takes_for_true_is_not_known_to_be_false() -> None:
    asked = situation("LlamaForCausalLM", "differ", {}, default=False)
    assert flag_at(asked, "", "0").ties is False
    assert flag_at(asked, "", "1").ties is None
    assert flag_at(situation("LlamaForCausalLM", "differ", {}, default=True), "", "1").ties is True


def test_only_an_identifier_is_a_class_and_only_a_list_names_an_inner_one() -> None:
    assert named_class(situation("LlamaForCausalLM", "differ", {})) == "LlamaForCausalLM"
    assert named_class(situation("llama 2", "differ", {})) is None
    for value, found in ((["A"], "A"), ([], None), ("A", None), ([1], None), (None, None)):
        asked = situation("LlavaForConditionalGeneration", "differ", {"text_config": {"architectures": value}})
        assert inner_name(asked, "text()") == found


@pytest.mark.parametrize("head", ["load", "skip", "alias", "keyerror", "refuse", "unknown:was not read", "unknown"])
def test_a_policy_never_calls_unequal_members_tied(head: str) -> None:
    policy = torch_policy(head, "KeyError", ("crash", None))
    assert policy.differ[0] in {"unknown", "head-discarded", "crash"}
    assert policy.lost_target[0] == "head-random"
    assert (policy.equal[0] == "tied") == (head in {"load", "skip", "alias"})
