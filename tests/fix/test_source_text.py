"""Steps on the text of a file: what they name changes, the rest stays to the byte; a place that it lacks is told."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import libcst as cst
import pytest
import source_subjects

from tiecheck.errors import TargetError
from tiecheck.fix.source_text import edited_text
from tiecheck.records.edits import Edit, source_step
from tiecheck.rules.registry import all_rules
from tiecheck.source.reading import parse_source

CLASS = 'class Net({base}):{end}    _tied_weights_keys = ["head.weight"]  # a list{end}{end}    x = {number}{end}'
WANTED = '_tied_weights_keys = {"head.weight": "emb.weight"}'


@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_named_stays_to_the_byte(seed: int) -> None:
    drawn = random.Random(seed)
    end = drawn.choice(["\n", "\r\n"])
    text = CLASS.format(base=drawn.choice(["nn.Module", "PreTrainedModel"]), end=end, number=drawn.randrange(99))
    step = source_step("Net", WANTED, '_tied_weights_keys = ["head.weight"]', line=2)
    after, missed = edited_text(text, [step], "net.py")
    assert missed == ()
    assert after == text.replace('_tied_weights_keys = ["head.weight"]', WANTED)


def test_a_place_that_is_not_there_is_told() -> None:
    step = source_step("Net", WANTED, "_tied_weights_keys = None", line=9)
    text = CLASS.format(base="nn.Module", end="\n", number=1)
    assert edited_text(text, [step], "net.py") == (text, (step,))


def test_a_text_that_does_not_parse_is_refused() -> None:
    with pytest.raises(TargetError, match=r"net\.py cannot be parsed"):
        edited_text("class Net(:\n", [source_step("Net", WANTED)], "net.py")


class OneLine(cst.CSTTransformer):
    """The simple statements of a block on one line: behind its colon, or below it."""

    def __init__(self, *, below: bool) -> None:
        """Begin with where that line stands."""
        super().__init__()
        self.below = below

    def leave_IndentedBlock(self, _: cst.IndentedBlock, updated: cst.IndentedBlock) -> Any:  # noqa: N802  # libcst's name
        if not all(isinstance(line, cst.SimpleStatementLine) for line in updated.body):
            return updated
        parts = [part for line in updated.body for part in line.body]
        between = cst.Semicolon(whitespace_after=cst.SimpleWhitespace(" "))
        row = [*(part.with_changes(semicolon=between) for part in parts[:-1]), parts[-1]]
        return (
            updated.with_changes(body=[cst.SimpleStatementLine(row)]) if self.below else cst.SimpleStatementSuite(row)
        )


LAYOUTS: dict[str, Callable[[str], str]] = {
    "behind the colon": lambda text: cst.parse_module(text).visit(OneLine(below=False)).code,
    "on one line": lambda text: cst.parse_module(text).visit(OneLine(below=True)).code,
    "by tabs": lambda text: re.sub(r"(?m)^( {4})+", lambda found: "\t" * (len(found[0]) // 4), text),
    "by two": lambda text: re.sub(r"(?m)^ +", lambda found: " " * (len(found[0]) // 2), text),
}


def edits_of(text: str) -> Iterator[tuple[str, Edit]]:
    """Code and edit of every alternative of every finding on a text."""
    file = parse_source(text.encode(), "model.py")
    for rule in (rule() for rule in all_rules() if rule.code.startswith("TIE8")):
        for draft in rule.check((file,)) if file is not None else ():
            yield from ((rule.code, edit) for edit in draft.edits)


def meaning(text: str) -> str:
    """What a text means, whatever its layout: without a `pass`, of which a line may leave one."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [one for one in body if not isinstance(one, ast.Pass)]
    return ast.dump(tree)


@pytest.mark.parametrize("many", [2, pytest.param(len(source_subjects.SUBJECTS), marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fix_is_the_same_in_any_layout(layout: str, many: int) -> None:
    done = 0
    for subject in random.Random(layout).sample(list(source_subjects.SUBJECTS.values()), many):
        other = LAYOUTS[layout](subject.text)
        both = zip(edits_of(subject.text), edits_of(other), strict=True)
        for (code, plain), (same, laid) in both:
            want, lost = edited_text(subject.text, plain.steps, "model.py")
            got, missed = edited_text(other, laid.steps, "model.py")
            assert (same, lost, missed) == (code, (), ())
            assert meaning(got) == meaning(want), got
            assert "\t " not in got
            done += 1
    assert done >= many


def test_of_two_alike_on_one_line_none_is_taken() -> None:
    text = "class A:\n    def f(self): self.x = 1; self.x = 1\n"
    step = source_step("A", None, "self.x = 1", line=2)
    assert edited_text(text, [step], "net.py") == (text, (step,))


def test_a_method_below_a_class_of_one_line() -> None:
    text = "if x:\n  class A(B): y = 1; z = 2  # both\n"
    after, _ = edited_text(text, [source_step("A", "def f(self):\n    return 1", line=2)], "net.py")
    assert after == "if x:\n  class A(B):  # both\n    y = 1\n    z = 2\n\n    def f(self):\n      return 1\n"
