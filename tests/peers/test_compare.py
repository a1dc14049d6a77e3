"""What a tool sees beside the truth: the same, less, more, or other groups."""

from __future__ import annotations

import pytest

from tiecheck.peers.views.differences import Difference, More, difference
from tiecheck.records.report import TieEntry, View
from tiecheck.records.words import Kind

Groups = tuple[tuple[str, ...], ...]


def entry(names: str, kind: Kind = "parameter", total: int | None = 0) -> TieEntry:
    split = tuple(names.split())
    return TieEntry(
        names=split,
        names_total=len(split) if total == 0 else total,
        kind=kind,
        kind_from="live",
        stored=None,
        stored_names=(),
        declared=None,
        declared_by=(),
        shape=None,
        dtype=None,
        nbytes=None,
        reason=None,
    )


def seen(*groups: str) -> View:
    return View("tool", "1-", None, ran=False, error=None, groups=tuple(tuple(group.split()) for group in groups))


@pytest.mark.parametrize(
    ("ties", "groups", "expected"),
    [
        ((), (), Difference((), ())),
        (("a b",), ("a b",), Difference((), ())),
        (("a b",), (), Difference((("a", "b"),), ())),
        (("a b c",), ("a b",), Difference((("a", "b", "c"),), ())),
        (("a b", "c d"), ("a b",), Difference((("c", "d"),), ())),
        ((), ("a b",), Difference((), (More(("a", "b"), None),))),
        (("a b",), ("a b", "x y"), Difference((), (More(("x", "y"), None),))),
        (("a b",), ("a b x",), Difference((), (More(("a", "b", "x"), None),))),
        (("a b", "c d"), ("a b c d",), Difference((), (More(("a", "b", "c", "d"), None),))),
        (("a b",), ("a x",), Difference((("a", "b"),), (More(("a", "x"), None),))),
    ],
)
def test_groups_beside_the_truth(ties: tuple[str, ...], groups: tuple[str, ...], expected: Difference) -> None:
    assert difference([entry(names) for names in ties], seen(*groups)) == expected


def test_a_storage_group_is_no_tie_and_is_named_as_what_it_is() -> None:
    found = difference([entry("a b", "storage")], seen("a b"))
    assert found == Difference((), (More(("a", "b"), "storage"),))
    assert difference([entry("a b", "storage")], seen()) == Difference((), ())


def test_names_beyond_the_listed_ones_are_not_held_against_a_tool() -> None:
    ties = [entry("a b", total=4)]
    assert difference(ties, seen("a b c d")) == Difference((), ())
    assert difference(ties, seen("a c")) == Difference((("a", "b"),), ())
    assert difference([entry("a b", total=None)], seen("a b x y")) == Difference((), ())


def test_what_the_table_says_is_no_truth_about_a_live_model() -> None:
    assert difference([entry("a b")._replace(kind_from="table")], seen()) == Difference((), ())
