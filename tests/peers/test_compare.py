"""What a tool sees beside the truth: the same, less, more, or other groups."""

from __future__ import annotations

import pytest

from tiecheck.peers.views.registry import UntiedGroup, ViewDifference, compare_view
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
        ((), (), ViewDifference((), ())),
        (("a b",), ("a b",), ViewDifference((), ())),
        (("a b",), (), ViewDifference((("a", "b"),), ())),
        (("a b c",), ("a b",), ViewDifference((("a", "b", "c"),), ())),
        (("a b", "c d"), ("a b",), ViewDifference((("c", "d"),), ())),
        ((), ("a b",), ViewDifference((), (UntiedGroup(("a", "b"), None),))),
        (("a b",), ("a b", "x y"), ViewDifference((), (UntiedGroup(("x", "y"), None),))),
        (("a b",), ("a b x",), ViewDifference((), (UntiedGroup(("a", "b", "x"), None),))),
        (("a b", "c d"), ("a b c d",), ViewDifference((), (UntiedGroup(("a", "b", "c", "d"), None),))),
        (("a b",), ("a x",), ViewDifference((("a", "b"),), (UntiedGroup(("a", "x"), None),))),
    ],
)
def test_groups_beside_the_truth(ties: tuple[str, ...], groups: tuple[str, ...], expected: ViewDifference) -> None:
    assert compare_view([entry(names) for names in ties], seen(*groups)) == expected


def test_a_storage_group_is_no_tie_and_is_named_as_what_it_is() -> None:
    found = compare_view([entry("a b", "storage")], seen("a b"))
    assert found == ViewDifference((), (UntiedGroup(("a", "b"), "storage"),))
    assert compare_view([entry("a b", "storage")], seen()) == ViewDifference((), ())


def test_names_beyond_the_listed_ones_are_not_held_against_a_tool() -> None:
    ties = [entry("a b", total=4)]
    assert compare_view(ties, seen("a b c d")) == ViewDifference((), ())
    assert compare_view(ties, seen("a c")) == ViewDifference((("a", "b"),), ())
    assert compare_view([entry("a b", total=None)], seen("a b x y")) == ViewDifference((), ())


def test_what_the_table_says_is_no_truth_about_a_live_model() -> None:
    assert compare_view([entry("a b")._replace(kind_from="table")], seen()) == ViewDifference((), ())
