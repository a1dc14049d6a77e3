"""The table of releases, held against the tie table that it speaks beside, and against the installed library."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from subjects import mapped

from tiecheck.tables.architectures import load_architecture, table_version
from tiecheck.tables.generate.releases import FLAGS, LACKING, class_groups, ties_copies
from tiecheck.tables.releases import (
    PATH,
    any_number,
    first_release,
    first_with_copies,
    known_releases,
    other_ties,
)

LINES = [line.split("\t") for line in Path(PATH).read_text(encoding="utf-8").splitlines()]
ROWS = [line for line in LINES if line[0][:1] not in "#*+"]


def test_the_releases_are_in_order_and_the_tie_table_was_made_from_one_of_them() -> None:
    releases = known_releases()
    assert list(releases) == sorted(set(releases))
    major, minor = table_version().split(".")[:2]
    assert (int(major), int(minor)) in releases
    assert releases[0] == (5, 0)


def test_a_class_came_once_and_not_with_the_first() -> None:
    came = [name for line in LINES if line[0][:1] == "+" for name in line[1].split(",")]
    assert len(came) == len(set(came)) > 100
    assert all(first_release(name) in known_releases()[1:] for name in came)
    assert first_release("LlamaForCausalLM") is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[2]} {row[5][:30]}")
def test_a_row_tells_of_a_group_of_the_tie_table_that_is_tied_otherwise_now(row: list[str]) -> None:
    name, types, since, until, bits, names = row
    assert since < until or len(since) != len(until)
    for kind in types.split(","):
        of_now = {any_number(tie.names) for tie in load_architecture(name, kind).ties}
        assert tuple(names.split()) in of_now
        assert any(one.names == tuple(names.split()) for one in other_ties(name, kind))
    assert set(bits) <= set("01x")
    assert bits != "xxx"


def test_the_installed_release_ties_what_its_table_says_and_equal_copies_as_it_says() -> None:
    release = tuple(map(int, table_version().split(".")[:2]))
    assert ties_copies() is (release >= first_with_copies())
    tied = [one for one in mapped() if load_architecture(*one[:2]).ties]
    for candidate in random.Random(2811).sample(tied, 12):
        told = class_groups(candidate)
        assert told is not None
        assert all(any(part.isdigit() for part in name.split(".")) for name in told.pop(LACKING)), (
            "layers it is built without"
        )
        assert told.keys() == FLAGS.keys()
        now = {any_number(tie.names) for tie in load_architecture(*candidate[:2], config={}).ties}
        assert {any_number(tuple(names)) for groups in told.values() for names in groups or ()} <= now
        assert not [one for one in other_ties(*candidate[:2]) if one.since <= release < one.until]
