"""Every rule against the cases it carries, and every rule's text against what a text must have."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import tiecheck.rules
from tiecheck.facts.registry import NAMES
from tiecheck.records.words import Unknown
from tiecheck.rules.base import SECTIONS, Case, Rule
from tiecheck.rules.registry import FAMILIES, INDEX, all_rules

RULES = all_rules()
CASES = [pytest.param(rule, case, id=f"{rule.code}: {case.title}") for rule in RULES for case in rule.cases()]


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_case(rule: type[Rule], case: Case) -> None:
    assert case.facts.keys() <= NAMES
    answers = list(rule().check(**{need: case.facts[need] for need in rule.needs}))
    drafts = [a for a in answers if not isinstance(a, Unknown)]
    assert tuple(d.severity or rule.severity for d in drafts) == case.finds
    assert any(isinstance(a, Unknown) for a in answers) == case.unknown
    for draft in drafts:
        assert draft.names
        assert draft.help or draft.edits or draft.no_mend
        assert [place.role for place in draft.locations].count("primary") == 1
        assert draft.locations[0].role == "primary"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_rule_has_found_and_silent_cases(rule: type[Rule]) -> None:
    cases = list(rule.cases())
    assert sum(bool(case.finds) for case in cases) >= 1
    assert sum(not case.finds and not case.unknown for case in cases) >= 2


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_rule_text(rule: type[Rule]) -> None:
    assert re.fullmatch(r"TIE\d{3}", rule.code)
    assert rule.code[3] in FAMILIES
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert tuple(rule.text()) == SECTIONS
    assert all(body for body in rule.text().values())
    assert "\u2014" not in (rule.__doc__ or "")
    assert rule.needs


def test_the_index_has_every_rule_of_the_rooms_and_what_it_wants() -> None:
    folder = Path(tiecheck.rules.__file__).parent
    found = {}
    for room, _ in FAMILIES.values():
        for path in (folder / room).glob("*.py"):
            module = import_module(f"tiecheck.rules.{room}.{path.stem}")
            rules = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Rule) and v is not Rule]
            found |= {rule.code: (f"{room}.{path.stem}", rule.needs) for rule in rules}
    assert found == INDEX, "python docs/generate.py writes it"
    assert list(INDEX) == sorted(INDEX)


def test_a_rule_that_wants_no_fact_is_refused() -> None:
    with pytest.raises(TypeError, match="rule Misspelt wants 'grups', and no fact"):

        class Misspelt(Rule):
            def check(self, grups):
                yield from ()


def test_codes_and_names_are_distinct() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
