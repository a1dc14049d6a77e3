"""Text and deed are one: what a finding tells to do stands in its edits, and its other words tell no step."""

from __future__ import annotations

import ast
import re

import pytest

from tiecheck.records.edits import edit_words
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Rule
from tiecheck.rules.registry import all_rules

DO = (
    "add|assign|call|change|choose|clone|copy|create|declare|delete|drop|initialise|keep|load|make|move|name|pad|pass|"
    "remove|rename|replace|resave|retrain|run|save|set|share|store|strip|take|tie|untie|use|write"
)
STEP = re.compile(rf"(^|[.;:,] (?:and |or )?)({DO})\b(?! (is|are)\b)|`|\w\(\w|\w = \w", re.IGNORECASE)
"""A step in words: an order at the beginning of a clause, or code."""

CASES = [
    pytest.param(rule, case, id=f"{rule.code}: {case.title}")
    for rule in all_rules()
    for case in rule.cases()
    if case.finds
]


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_no_step_is_told_that_is_not_in_the_edits(rule: type[Rule], case: Case) -> None:
    for draft in rule().check(**{need: case.facts[need] for need in rule.needs}):
        if not isinstance(draft, Unknown):
            assert draft.edits or draft.no_mend
            assert not STEP.search(draft.help), draft.help


@pytest.mark.parametrize(
    "told",
    ["Set the flag to false.", "It is sound. Call model.tie_weights().", "If so: model.a = model.b", "Run `x`."],
)
def test_a_step_is_known(told: str) -> None:
    assert STEP.search(told)


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_the_lines_to_run_are_told_as_they_run(rule: type[Rule], case: Case) -> None:
    drafts = rule().check(**{need: case.facts[need] for need in rule.needs})
    for edit in (edit for draft in drafts if not isinstance(draft, Unknown) for edit in draft.edits):
        for step in (step for step in edit.steps if step.kind == "run-python"):
            (told,) = re.findall("`([^`]*)`", edit_words((edit._replace(steps=(step,)),)))
            assert ast.dump(ast.parse(told)) == ast.dump(ast.parse(step.code or ""))
