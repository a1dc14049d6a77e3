"""Where something wrote past `nn.Module` while nobody looked: the one line of the user's that can have done it."""

from __future__ import annotations

import ast
import linecache
import re

from tiecheck.records.life import UserLine

DICTS = r"\b(_modules|_parameters|_buffers|__dict__)\b"
WRITES = re.compile(
    rf"{DICTS}.*(?<![=!<>])=(?!=)|{DICTS}.*\.(update|pop|clear|setdefault|popitem)\(|^\s*del\b.*{DICTS}"
)
"""A line that writes into the dicts of a module."""

BLOCKS = (ast.With, ast.AsyncWith, ast.For, ast.AsyncFor, ast.While, ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)


def unseen_write(since: UserLine, until: UserLine, *, ends: bool) -> UserLine | None:
    """Return the only line that writes into a module's dicts between two, in the block around both; None for several.

    Where `ends`, the second is the line of the `with` that ended, and the block is that of it.
    """
    if since.path != until.path:
        return None
    lines = linecache.getlines(since.path)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):  # an interpreter's input, or a cell with magic words
        return None
    first, last = sorted((since.line, until.line))
    around = [
        (getattr(node, "lineno", 1), getattr(node, "end_lineno", None) or len(lines))
        for node in ast.walk(tree)
        if isinstance(node, BLOCKS)
    ]
    fit = [one for one in around if one[0] <= first and last <= one[1] and (not ends or one[0] == until.line)]
    begin, end = min(fit, key=lambda one: one[1] - one[0], default=(0, 0))
    found = [n for n in range(begin, end + 1) if WRITES.search(lines[n - 1].partition("#")[0])] if begin else []
    lies = found and (ends or since.line < until.line)
    if len(found) != 1 or (lies and not since.line <= found[0] <= (end if ends else until.line)):
        return None
    return UserLine(since.path, found[0], lines[found[0] - 1].strip(), "", since.in_file)
