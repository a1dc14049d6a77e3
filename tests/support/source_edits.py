"""The source edits of a finding, applied to the text of a module as their reader would type them."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable

from tiecheck.records.edits import Step


def edited(text: str, steps: Iterable[Step]) -> str:
    """The text after some `edit-source` steps."""
    for step in steps:
        if step.kind == "edit-source":
            text = _edited(text, step)
    return text


def _edited(text: str, step: Step) -> str:
    lines = text.splitlines()
    cls = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and n.name == step.names[0])
    if len(step.names) == 2:  # at the end of a method
        assert step.code is not None
        method = next(n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == step.names[1])
        lines[method.end_lineno : method.end_lineno] = _indented(step.code, method.body[0].col_offset)
        return "\n".join(lines) + "\n"
    old = next((n for n in cls.body if step.instead_of and _head(n) == _plain(step.instead_of)), None)
    if old is None:
        assert step.code is not None, f"{step.instead_of} is not in the class"
        lines[cls.body[0].lineno - 1 : cls.body[0].lineno - 1] = _indented(step.code, cls.body[0].col_offset)
    elif isinstance(old, ast.FunctionDef) and step.code is not None:
        lines[old.lineno - 1 : old.body[0].lineno - 1] = _indented(step.code, old.col_offset)
    else:
        new = _indented(step.code, old.col_offset) if step.code else [] if len(cls.body) > 1 else ["    pass"]
        lines[old.lineno - 1 : old.end_lineno] = new
    return "\n".join(lines) + "\n"


def _indented(code: str, columns: int) -> list[str]:
    return textwrap.indent(code, " " * columns).splitlines()


def _head(node: ast.stmt) -> str:
    return ast.unparse(node).splitlines()[0]


def _plain(code: str) -> str:
    return ast.unparse(ast.parse(code + (" pass" if code.endswith(":") else ""))).splitlines()[0]
