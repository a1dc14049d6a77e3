"""Findings of one cause become one, with all of their names and every line of their fixes."""

from __future__ import annotations

import random

import pytest

from tiecheck.rules.base import Draft, class_place
from tiecheck.rules.cases import live_tie
from tiecheck.rules.live.mends import joined_declarations, joined_drafts, of_one_cause


@pytest.mark.parametrize("seed", range(10))
def test_every_tie_of_shared_memory_is_in_one_cause(seed: int) -> None:
    draw = random.Random(seed)
    kinds = draw.choices(("storage", "parameter", "copy"), k=12)
    ties = [live_tie(f"a.{n}.weight", f"b.{n}.weight", kind=kind) for n, kind in enumerate(kinds)]
    found = [tie for one in of_one_cause(ties) for tie in one]
    assert sorted(tie.names for tie in found) == sorted(tie.names for tie in ties if tie.kind == "storage")
    assert list(of_one_cause([tie._replace(buffer=True) for tie in ties])) == []


def test_drafts_are_joined_by_their_names_and_declarations_by_their_keys() -> None:
    drafts = [
        Draft("Two are one.", (f"a.{n}", f"b.{n}"), (class_place("M", "x"),), no_mend="none is wanted") for n in "xyz"
    ]
    joined = joined_drafts(drafts)
    assert joined.names == ("a.x", "a.y", "a.z", "b.x", "b.y", "b.z")
    assert joined.message.startswith("Two are one. ")
    assert "2 more" in joined.message
    told = joined_declarations(["_tied_weights_keys = {'a': 'b'}", "_tied_weights_keys = {'c': 'd'}"])
    assert told == "_tied_weights_keys = {'a': 'b', 'c': 'd'}"
    assert joined_declarations(["_tied_weights_keys = {**OTHER}"]) is None
