"""The kind of each place: a `file` where the facts name a file of the target, and nothing else is called one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tiecheck.records.report import Location
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Rule
from tiecheck.rules.registry import all_rules

CASES = [
    pytest.param(rule, case, id=f"{rule.code}: {case.title}")
    for rule in all_rules()
    for case in rule.cases()
    if case.finds
]
FIELDS = {
    "file": {"path", "file", "index_file", "resumed"},
    "class": {"class_name"},
    "tensor": {"name", "names", "stored_names", "renamed", "made", "lost"},
}
"""Kind -> the facts, and the fields of their records, that name such a thing."""


def texts(value: Any) -> Iterator[str]:
    """Yield every text of a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        for item in value:
            yield from texts(item)


def named(value: Any, fields: set[str]) -> Iterator[str]:
    """Yield what the records in a value, at any depth, have under some fields."""
    if hasattr(value, "_fields"):
        for field, held in zip(value._fields, value, strict=True):
            yield from texts(held) if field in fields else named(held, fields)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from named(item, fields)


def places(rule: type[Rule], case: Case) -> list[Location]:
    answers = rule().check(**{need: case.facts[need] for need in rule.needs})
    return [place for answer in answers if not isinstance(answer, Unknown) for place in answer.locations]


@pytest.mark.parametrize(("rule", "case"), CASES)
def test_a_place_is_what_its_kind_says(rule: type[Rule], case: Case) -> None:
    things: dict[str, set[str]] = {kind: set() for kind in FIELDS}
    for kind, fields in FIELDS.items():
        for fact, value in case.facts.items():
            things[kind].update(texts(value) if fact in fields else named(value, fields))
    things["file"] |= {"config.json", "adapter_config.json"}
    for place in places(rule, case):
        assert (place.kind == "file") == (place.path in things["file"])
        assert place.path in things.get(place.kind, {place.path})
        assert place.kind == "file" or place.line is place.column is None
        if place.kind == "tool":
            assert place.path.split()[0] in ("accelerate", "transformers") or place.path.startswith("--")
