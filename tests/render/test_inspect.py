"""The facts for people: each layer under its word, long lists cut and counted, and what a tool sees in one word."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiecheck.records.counts import Counts, Tally
from tiecheck.records.report import AliasEntry, Report, TargetReport, TieEntry, View
from tiecheck.render.inspect import GROUPS_SHOWN, NAMES_SHOWN, render
from tiecheck.render.reports import Style

TIE = TieEntry(
    names=("a.weight", "b.weight"),
    names_total=2,
    kind="parameter",
    kind_from="live",
    stored=None,
    stored_names=(),
    declared=None,
    declared_by=(),
    shape=(8, 4),
    dtype="float32",
    nbytes=128,
    reason=None,
)
VIEW = View("accelerate", "0.34-", "1.15.0", True, None, (TIE.names,), "find_tied_parameters")


def shown(verbose: bool = False, **fields: object) -> list[str]:
    plain = dict.fromkeys(("ties", "aliases", "views", "loaders", "findings", "skips", "errors", "rules_run"), ())
    target = TargetReport("net.py:f", "module", "pass", "Net", None, None, ("live",), **plain)  # type: ignore[arg-type]
    stream = io.StringIO()
    render(Report("1", (target._replace(**fields),), 0.0), Style(verbose=verbose, color="never"), stream)
    return [line.strip() for line in stream.getvalue().splitlines()]


@given(st.integers(0, 40), st.integers(2, 12), st.booleans())
def test_groups_and_names_are_cut_and_the_rest_is_counted(groups: int, names: int, verbose: bool) -> None:
    every = tuple(f"n{number}" for number in range(names))
    lines = shown(verbose, ties=(TIE._replace(names=every, names_total=names),) * groups)
    listed = [line for line in lines if line.startswith("n0 = n1")]
    assert len(listed) == (groups if verbose else min(groups, GROUPS_SHOWN))
    assert ("no tie group" in lines) == (groups == 0)
    rest = [line for line in lines if "more groups" in line]
    assert bool(rest) == (groups > GROUPS_SHOWN and not verbose)
    assert all(line.startswith(f"and {groups - GROUPS_SHOWN} more groups") for line in rest)
    if listed and names > NAMES_SHOWN and not verbose:
        assert f"{names - NAMES_SHOWN}" in listed[0]
        assert "n4" not in listed[0]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "live      parameter"),
        ({"kind": "copy"}, "live      copy, not tied"),
        ({"kind_from": "table"}, "class     parameter, as the class builds it when it ties"),
        ({"declared": True, "declared_by": ("Net._tied_weights_keys",)}, "declared  tied, by Net._tied_weights_keys"),
        ({"declared": False}, "declared  not tied"),
        ({"stored": "absent", "stored_names": ("a.weight",)}, "stored    once, as a.weight"),
        ({"stored": "absent"}, "stored    under no name that is known"),
        (
            {"stored": "separate", "stored_names": TIE.names},
            "stored    2 times, with different values: a.weight, b.weight",
        ),
        ({}, "tensor    float32 [8, 4], 128 bytes"),
        ({"reason": "on meta"}, "because   on meta"),
    ],
)
def test_each_layer_stands_under_its_word(changes: dict, line: str) -> None:
    assert line in shown(ties=(TIE._replace(**changes),))


def test_an_untied_group_is_not_joined_by_an_equals_sign() -> None:
    assert "a.weight, b.weight" in shown(ties=(TIE._replace(kind="separate"),))
    assert "a.weight = b.weight" in shown(ties=(TIE,))


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({}, "same"),
        ({"groups": ()}, "misses"),
        ({"groups": (TIE.names, ("c", "d"))}, "more"),
        ({"groups": (("c", "d"),)}, "differs"),
        ({"error": "RecursionError: too deep"}, "raises"),
        ({"error": "not run: it is not installed", "ran": False}, "not run"),
        ({"says": True}, "says yes"),
        ({"says": False}, "says no"),
    ],
)
def test_what_a_tool_sees_is_one_word_before_its_name(changes: dict, begins: str) -> None:
    lines = shown(ties=(TIE,), views=(VIEW._replace(**changes),))
    (line,) = [line for line in lines if "accelerate" in line]
    assert line.startswith(f"{begins:<10}accelerate")


def test_a_reproduction_that_says_what_the_tool_says_is_left_out() -> None:
    again = VIEW._replace(ran=False, version=None)
    assert sum("find_tied" in line for line in shown(ties=(TIE,), views=(VIEW, again))) == 1
    other = again._replace(algorithm="0.20-0.33", groups=())
    assert sum("find_tied" in line for line in shown(ties=(TIE,), views=(VIEW, other))) == 2


def test_a_count_that_is_unknown_is_a_question_mark() -> None:
    tally = Tally(1000, None, 10)
    lines = shown(counts=Counts(tally, tally, tally, ("too many",)))
    assert any(line.split()[:4] == ["unique", "1,000", "10", "?"] for line in lines)
    assert "too many" in lines


def test_a_cycle_of_aliases_is_told_as_endless() -> None:
    alias = AliasEntry(("", "up"), None, "Net", TIE.names)
    assert any("(the model) = up and endlessly many more (a cycle)" in line for line in shown(aliases=(alias,)))
    assert any("a = b and 3 more" in line for line in shown(aliases=(alias._replace(paths=("a", "b"), paths_total=5),)))
