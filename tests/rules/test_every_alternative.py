"""Every alternative of every rule is carried out by a test, or the rule says why there is none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import source_subjects
from class_subjects import CLASSES
from fix_file_subjects import file_subjects
from fix_subjects import subjects
from mend_subjects import SUBJECTS

from tiecheck.records.edits import CHOICES, Edit
from tiecheck.rules.base import Draft
from tiecheck.rules.registry import all_rules
from tiecheck.source.reading import parse_source

ROOT = Path(__file__).parents[2]
ACROSS, STEPPED = "tests/rules/live/test_across.py::", "tests/rules/training/test_stepped.py::"
GUARD, PLACED = "tests/guard/test_tie_guard.py::", "tests/rules/test_placement_failures.py::"
UNSEEN, LOADS = "tests/rules/test_unseen_failures.py::", "tests/rules/test_placement_loads.py::"

NAMED = {
    "TIE319 apart": f"{ACROSS}test_a_reference_that_moves_with_the_policy",
    "TIE319 shared": f"{ACROSS}test_a_sharing_that_shares_nothing_is_told",
    "TIE401 NAME": f"{GUARD}test_warn_warns_at_the_line_and_the_report_has_the_finding",
    "TIE402 apart": f"{GUARD}test_an_untie_that_leaves_the_memory_shared_is_told_as_that",
    "TIE403 NAME": f"{GUARD}test_a_resize_that_parts_a_tie_has_two_ways_back",
    "TIE501 declared": f"{PLACED}test_transformers_splits_a_tie_that_nobody_declares",
    "TIE501 placed": f"{PLACED}test_a_map_over_cpu_and_disk_keeps_an_old_copy",
    "TIE502 declared": f"{UNSEEN}test_an_undeclared_tie_that_stays_together_is_a_note",
    "TIE502 dropped": f"{UNSEEN}test_keys_of_a_map_that_match_no_submodule",
    "TIE502 NAME": f"{UNSEEN}test_a_true_warning_where_nothing_ties_the_head",
    "TIE503 placed": f"{PLACED}test_a_double_count_that_moves_a_module",
    "TIE504 tied": "tests/rules/placement/test_sharding.py::test_the_fix_trains_and_stays_one",
    "TIE508 placed": f"{PLACED}test_a_planner_that_raises",
    "TIE509 placed": f"{PLACED}test_the_plan_changes_with_the_hash_seed",
    "TIE510 stored": f"{LOADS}test_the_name_that_is_stored_as_well_brings_the_values_back",
    "TIE511 placed": f"{LOADS}test_it_raises_as_told_and_the_mend_mends",
    "TIE702 once": f"{STEPPED}test_one_tensor_twice_in_a_group_is_stepped_twice",
    "TIE702 tied": f"{STEPPED}test_one_memory_under_two_parameters_is_stepped_twice",
    "TIE703 tied": f"{STEPPED}test_members_that_are_apart_and_trained_by_other_rules",
    "TIE707 regrouped": f"{STEPPED}test_an_embedding_replaced_after_the_optimizer_was_made",
    "TIE707 tied": f"{STEPPED}test_a_copy_of_the_embedding_that_nothing_steps_is_told_where_all_else_is_stepped",
    "TIE708 moved": f"{STEPPED}test_a_tied_table_lands_in_the_group_of_the_matrices",
}
"""Alternative -> the test that carries it out, for those that no table of subjects has."""

EXECUTORS = {"exec", "run_mend", "mended", "ran", "make_plan"}
"""Names that a test calls to carry an alternative out."""


def word(choice: str) -> str:
    """Tensors and files that are to be chosen from are alike."""
    endings = {"safetensors": "FILE", "bin": "FILE"}
    return endings.get(choice.rpartition(".")[2], "NAME") if "." in choice else choice


def offered() -> Iterator[tuple[str, Edit]]:
    """Every alternative that the cases of the rules come to."""
    for rule in all_rules():
        for case in rule.cases():
            for draft in rule().check(**{need: case.facts[need] for need in rule.needs}):
                yield from ((rule.code, edit) for edit in draft.edits) if isinstance(draft, Draft) else ()


def tabled() -> Iterator[str]:
    """What the tables of subjects take: a word that is given, or what is right in any case."""
    yield from (f"{s.code} {word(s.choice or 'SURE')}" for s in (*subjects(), *file_subjects()))
    yield from (f"{code} {word(way)}" for s in SUBJECTS for code, ways in s.alternatives.items() for way in ways)
    yield from (f"{code} source" for _, code, _ in CLASSES.values())
    for subject in source_subjects.SUBJECTS.values():
        file = parse_source(subject.text.encode(), "model.py")
        for rule in (rule for rule in all_rules() if rule.code in subject.codes):
            for draft in rule().check(sources=(file,)):
                edits = draft.edits if isinstance(draft, Draft) else ()
                yield from (f"{rule.code} {e.choice}" for e in edits if e.when is None or e.choice in subject.options)


EXECUTED = {*tabled(), *NAMED}
ALTERNATIVES = {f"{code} {word(edit.choice)}": None for code, edit in offered()}


def test_a_word_that_chooses_an_edit_is_a_known_one() -> None:
    """`fix --choose` refuses what is neither known nor a name with a dot."""
    edits = [edit for _, edit in offered() if any(step.kind != "run-python" for step in edit.steps)]
    assert {word(edit.choice) for edit in edits} <= {"NAME", "FILE", *CHOICES}


def test_the_rules_have_many() -> None:
    assert len(ALTERNATIVES) > 80
    assert len({name[:6] for name in ALTERNATIVES}) > 50


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_an_alternative_is_carried_out(name: str) -> None:
    ways = [edit for code, edit in offered() if f"{code} {word(edit.choice)}" == name]
    sure = any(edit.when is None for edit in ways) and f"{name[:6]} SURE" in EXECUTED
    assert name in EXECUTED or sure


@pytest.mark.parametrize("name", NAMED)
def test_the_test_that_is_named_carries_it_out(name: str) -> None:
    assert name in ALTERNATIVES
    path, _, title = NAMED[name].partition("::")
    tree = ast.parse((ROOT / path).read_text())
    (test,) = (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == title)
    called = {one.func.id for one in ast.walk(test) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}
    assert called & EXECUTORS
