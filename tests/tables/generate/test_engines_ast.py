"""Reading an engine's classes without importing them: names, bases, methods, and the conditions of a statement."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tiecheck.tables.generate.engines_ast import (
    Tree,
    class_lineage,
    dotted_chain,
    mentions_text,
    name_called,
    nearest_method,
    walked_statements,
)


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.b.c", "a.b.c"),
        ("config.get_text_config().x", "config.get_text_config().x"),
        ("f(1).x", None),
        ("a[0]", None),
    ],
)
def test_a_chain_of_attributes_is_dotted(text: str, name: str | None) -> None:
    assert dotted_chain(expression(text)) == name


def test_what_is_called_and_what_is_mentioned() -> None:
    assert name_called(expression("nn.Linear()")) == "Linear"
    assert name_called(expression("nn.Linear")) == ""
    assert mentions_text(expression("f('the lm_head.weight')"), "lm_head")
    assert mentions_text(expression("self.lm_head_"), "lm_head")
    assert not mentions_text(expression("self.head"), "lm_head")


def test_a_statement_comes_with_the_tests_above_it_and_nested_functions_are_left_out() -> None:
    body = ast.parse("if a:\n  if b:\n    x\n  else:\n    y\nfor i in j:\n  z\ndef f():\n  hidden").body
    found = {
        ast.unparse(statement): [(ast.unparse(test), value) for test, value in above]
        for statement, above in walked_statements(body)
        if isinstance(statement, ast.Expr)
    }
    assert found == {"x": [("a", True), ("b", True)], "y": [("a", True), ("b", False)], "z": []}


def test_bases_and_methods_are_followed_through_imports(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("class Base:\n    def load(self): ...\n    def own(self): ...\n")
    (tmp_path / "mine.py").write_text("from .base import Base as Above\nclass Mine(Above):\n    def own(self): ...\n")
    tree = Tree(tmp_path, tmp_path)
    mine = tree.parse(tmp_path / "mine.py").find("Mine")
    assert mine is not None
    assert [found.name for found in class_lineage(mine)] == ["Mine", "Base"]
    owners = [found[0].name for name in ("own", "load") if (found := nearest_method(mine, name)) is not None]
    assert owners == ["Mine", "Base"]
    assert nearest_method(mine, "absent") is None
