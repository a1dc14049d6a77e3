"""A rule's text for the terminal, for the docs and as data."""

from __future__ import annotations

import json

import pytest

from tiecheck.render.lines import wrapped
from tiecheck.render.rules import (
    found_lines,
    list_lines,
    rule_lines,
    rule_rows,
    rule_text,
    rules_document,
    thread_link,
)
from tiecheck.rules.base import SECTIONS, Rule
from tiecheck.rules.registry import all_rules
from tiecheck.rules.search import search_rules


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_text_has_every_section_and_thread(rule: type[Rule]) -> None:
    text = rule_text(rule)
    assert text.startswith(f"# {rule.code}: {rule.name}\n")
    assert all(f"\n## {title}\n" in text for title in SECTIONS)
    assert all(thread_link(thread) in text for thread in rule.threads.split())


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_on_a_terminal_it_is_wrapped_and_no_markdown(rule: type[Rule], width: int) -> None:
    lines = list(rule_lines(rule))
    for line in lines:
        pieces = wrapped(line, width)
        assert line.whole or all(len(piece) <= width or " " not in piece.strip().lstrip("- ") for piece in pieces)
        assert not line.text.startswith(("#", "**"))
    titles = [line.text for line in lines if line.tone == "bold"]
    assert titles[:3] == list(SECTIONS)
    body = " ".join(line.text for line in lines).replace("`", "").split()
    assert set(rule_text(rule).replace("`", "").split()) <= {*body, "#", "##", f"{rule.code}:", rule.name, "-"}


def test_the_list_names_each_rule_once() -> None:
    heads = [line.text.split()[0] for line in list_lines() if line.text.startswith("TIE")]
    assert heads == [rule.code for rule in all_rules()]
    assert [line.text for line in rule_rows(all_rules()[:1])][1] == all_rules()[0].summary


def test_a_message_says_first_when_it_is_harmless() -> None:
    told = [line.text for line in found_lines(search_rules("The model weights are not tied. Please use the"))]
    assert told[0].startswith("Message: The model weights are not tied.")
    assert told[1].startswith("Harmless when ")
    assert any(line.startswith("TIE502 ") for line in told)
    alone = [line.text for line in found_lines(search_rules("KeyError: 'state.lm_head.weight.step'"))]
    assert "How to fix it" in alone, "where one rule is meant it is explained"


def test_as_data() -> None:
    document = rules_document(search_rules("Removed shared tensor {'a'} while saving. This should be OK"))
    assert json.loads(json.dumps(document)) == document
    assert document["symptom"]["when"].startswith("Harmless")
    assert list(document["rules"][0]["text"]) == list(SECTIONS)
    assert rules_document(search_rules("TIE101"))["symptom"] is None


def test_the_short_form_of_github_gets_its_address() -> None:
    assert thread_link("owner/name#12") == "https://github.com/owner/name/issues/12"
    assert thread_link("https://example.org/x#y") == "https://example.org/x#y"
