"""The texts of TIE206 and TIE207 name every cause that the code tells, in the words in which it tells it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tiecheck.rules.registry import rule_of
from tiecheck.tables.structure import known_words

PACKAGE = Path(__file__).parents[2] / "tiecheck"

CODES = {
    **dict.fromkeys(("name", "nested", "format", "vendor"), "TIE206"),
    **dict.fromkeys(("shape", "prefix", "field", "newer"), "TIE207"),
}
"""Kind of a problem -> the rule that tells it."""


class Cause(NamedTuple):
    where: str
    code: str
    words: str


def text_in(node: ast.AST) -> str:
    """Return what stands in the strings of an expression."""
    return " ".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)).strip()


def callee(node: ast.AST) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def told_in(function: ast.FunctionDef, file: str) -> Iterator[Cause]:
    """Yield the causes of a function: what `why` was last made of before a problem is told, or what `told` is given."""
    nodes = sorted((n for n in ast.walk(function) if hasattr(n, "lineno")), key=lambda n: n.lineno)
    whys = [n for n in nodes if isinstance(n, ast.Assign) and [ast.unparse(t) for t in n.targets] == ["why"]]
    codes = set()
    for node in nodes:
        parts = node.args if callee(node) == "told_problem" else node.elts if isinstance(node, ast.Tuple) else []
        if parts and isinstance(parts[0], ast.Constant) and parts[0].value in CODES and len(parts) > 1:
            codes.add(code := CODES[parts[0].value])
            before = [why for why in whys if why.lineno <= node.lineno]
            if before:
                yield Cause(f"{file}:{node.lineno}", code, text_in(before[-1].value))
        if callee(node) == "LoadProblem":
            given = {k.arg: k.value for k in node.keywords}
            if "kind" in given:
                yield Cause(f"{file}:{node.lineno}", CODES[text_in(given["kind"])], text_in(given["why"]))
    for node in nodes:
        if callee(node) == "told" and codes:
            yield Cause(f"{file}:{node.lineno}", *codes, text_in(node.args[0]))


def all_causes() -> Iterator[Cause]:
    for path in sorted(PACKAGE.glob("stored/*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield from told_in(node, path.name)
            elif callee(node) == "Refused":
                yield Cause(f"{path.name}:{node.lineno}", "TIE207", text_in(node.args[0]))
        for node in tree.body:  # halves of sentences
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"_NOT_SO", "_STATES"}:
                for half in node.value.values:
                    yield Cause(f"{path.name}:{half.lineno}", "TIE207", text_in(half))


CAUSES = list(dict.fromkeys(all_causes()))

COMMON = {
    "which",
    "where",
    "what",
    "that",
    "than",
    "them",
    "there",
    "none",
    "with",
    "other",
    "another",
    "have",
    "takes",
}
"""Words that say nothing of a cause."""


def stems(text: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z_]{4,}", text.lower()) if word not in COMMON}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: f"{cause.where} {cause.words[:30]}")
def test_every_cause_is_in_the_rules_text(cause: Cause) -> None:
    text = rule_of(cause.code).__doc__ or ""
    marked = set(re.findall(r"`([^`]+)`|\b(gptq)\b", cause.words))
    for word in {one or other for one, other in marked}:
        assert word in text, f"{cause.where} tells {word!r}, and the text of {cause.code} does not"
    said = stems(cause.words)
    assert 2 * len(said & stems(text)) >= len(said), (cause, said - stems(text))


def test_the_causes_are_those_of_the_code() -> None:
    """Every kind is seen, and a cause that the text lacks would be seen too."""
    assert {code for _, code, _ in CAUSES} == {"TIE206", "TIE207"}
    assert len(CAUSES) > len(CODES)
    text = stems(rule_of("TIE207").__doc__ or "")
    made = stems("the tokenizer of the checkpoint speaks klingon")
    assert 2 * len(made & text) < len(made)


def test_every_word_of_the_library_has_an_example() -> None:
    """Fields that take the same words are one family; the text names the commonest field of each large one."""
    families: dict[frozenset[str], Counter[str]] = {}
    for line, file in (("5", "structure.txt"), ("4.57", "structure-4.57.txt")):
        kinds = re.findall(r"^@([^\t\n]+)", (PACKAGE / "tables" / file).read_text(), re.MULTILINE)
        for kind in kinds:
            for field, words, whole in known_words(kind, line):
                if whole:
                    families.setdefault(words, Counter())[field.rpartition(".")[2]] += 1
    large = {family.most_common(1)[0][0] for family in families.values() if family.total() > 20}
    assert large
    for field in large:
        assert f"`{field}`" in (rule_of("TIE207").__doc__ or ""), field
