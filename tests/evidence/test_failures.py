"""The page of failures: complete, up to date, and each test on it is there."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import pytest
from failures import PAGE, Failure, page_text, read_failures

from tiecheck.rules.registry import INDEX

TESTS = Path(__file__).parents[1]
ALL = read_failures()


@lru_cache
def functions(file: str) -> frozenset[str]:
    """Return the tests of a file as pytest names them."""
    body = ast.parse((TESTS / file).read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    inside = {f"{one.name}::{n.name}" for one in classes for n in one.body if isinstance(n, ast.FunctionDef)}
    return frozenset({node.name for node in body if isinstance(node, ast.FunctionDef)} | inside)


def test_the_list_is_whole_and_the_page_is_of_it() -> None:
    assert sum(not one.trap for one in ALL) == 83
    assert [one.ident for one in ALL if one.trap] == [str(number) for number in range(1, 21)]
    assert len({one.ident for one in ALL}) == len(ALL)
    assert PAGE.read_text() == page_text(ALL, frozenset(INDEX))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.ident)
def test_each_has_a_test_that_is_there_or_waits(one: Failure) -> None:
    assert one.test or one.waits
    if one.test:
        file, _, name = one.test.partition("::")
        assert name in functions(file)
        assert one.trap or any(code in INDEX for code in one.rules.split())
