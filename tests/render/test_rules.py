"""A rule's text for the terminal and the docs."""

from __future__ import annotations

import pytest

from tiecheck.render.rules import rule_list, rule_text, thread_link
from tiecheck.rules.base import SECTIONS, Rule
from tiecheck.rules.registry import all_rules


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_text_has_every_section_and_thread(rule: type[Rule]) -> None:
    text = rule_text(rule)
    assert text.startswith(f"# {rule.code}: {rule.name}\n")
    assert all(f"\n## {title}\n" in text for title in SECTIONS)
    assert all(thread_link(thread) in text for thread in rule.threads)


def test_the_list_names_each_rule_once() -> None:
    listed = rule_list()
    assert all(listed.count(f"{rule.code}  ") == 1 for rule in all_rules())


def test_the_short_form_of_github_gets_its_address() -> None:
    assert thread_link("owner/name#12") == "https://github.com/owner/name/issues/12"
    assert thread_link("https://example.org/x#y") == "https://example.org/x#y"
