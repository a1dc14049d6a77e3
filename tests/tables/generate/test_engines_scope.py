"""What a constructor's names stand for, the flag it reads, and how it makes its head."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tiecheck.tables.generate.engines_ast import Class, Tree
from tiecheck.tables.generate.engines_scope import Scope, head_writes, without_ranks

BODY = """
class Mine:
    def __init__(self, config, vllm_config=None):
        text = config.text_config
        self.tie = getattr(text, "tie_word_embeddings", True)
        if get_pp_group().is_last_rank and config.tie_word_embeddings:
            self.lm_head = self.model.embed_tokens
        else:
            self.lm_head = PPMissingLayer()
        self.other = 1
"""


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Class, ast.FunctionDef]:
    (tmp_path / "mine.py").write_text(BODY)
    found = Tree(tmp_path, tmp_path).parse(tmp_path / "mine.py").find("Mine")
    assert found is not None
    init = found.node.body[0]
    assert isinstance(init, ast.FunctionDef)
    return found, init


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("config.tie_word_embeddings", ("", "-")),
        ("text.tie_word_embeddings", ("text_config", "-")),
        ("self.tie", ("text_config", "1")),
        ("bool(config.tie_word_embeddings)", ("", "-")),
        ("unknown.tie_word_embeddings", None),
        ("getattr(config, 'tie_word_embeddings', chosen())", None),
    ],
)
def test_a_read_of_the_flag_has_a_level_and_a_default(
    mine: tuple[Class, ast.FunctionDef], text: str, flag: tuple[str, str] | None
) -> None:
    assert Scope(*mine).flag(expression(text)) == flag


def test_assignments_of_the_head_come_without_ranks_and_placeholders(mine: tuple[Class, ast.FunctionDef]) -> None:
    (write,) = head_writes(mine[1])
    assert write.ties
    assert [(ast.unparse(test), value) for test, value in write.conditions] == [("config.tie_word_embeddings", True)]


def test_a_condition_on_ranks_alone_is_none() -> None:
    assert without_ranks(((expression("get_pp_group().is_last_rank"), True),)) == ()
