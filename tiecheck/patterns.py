"""Regular expressions of a class that would take forever on the names of a model.

Python's `re` backtracks and can be given no limit. A pattern whose form allows that is therefore tried in a process of
its own first, which can be stopped. The parser that tells the form is a private module of the standard library
(`re._parser`, Python 3.11 to 3.14).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SECONDS = 5.0
"""Seconds that one pattern may take on all names."""

_HOPELESS: set[tuple[str, int]] = set()
"""Patterns that took longer, each with the hash of the names: they are not tried again."""

LOOPS = 4
"""Loops one after another that a pattern may have: names are short, so that their product stays small."""

MANY = 16
"""A bounded loop of more rounds counts as one without end."""

_TRIAL = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.search("^" + pattern, name)
"""


def takes_forever(patterns: Iterable[str], names: Callable[[], Iterable[str]]) -> str | None:
    """Return the first of some patterns that cannot be matched against all names in time; None where all can.

    The names are asked for only where a pattern has to be tried.
    """
    risky = [pattern for pattern in patterns if may_explode(pattern)]
    if not risky:
        return None
    everything = tuple(names())
    for pattern in risky:
        if (pattern, hash(everything)) in _HOPELESS:
            return pattern
        try:
            subprocess.run(  # noqa: S603  # this Python, and a program of ours
                [sys.executable, "-I", "-S", "-c", _TRIAL],
                input=json.dumps([[pattern], everything]).encode(),
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):  # not tried is not trusted
            _HOPELESS.add((pattern, hash(everything)))
            return pattern
    return None


def may_explode(pattern: str) -> bool:
    """Tell whether a pattern's loops might share a text out among themselves in too many ways.

    A loop or a choice within a loop may take time that doubles with each character; many loops in a row take a power
    of its length. Harmless ones are among them. What is no pattern at all is for `re` to refuse.
    """
    from re import _parser  # type: ignore[attr-defined]  # typeshed leaves it out

    try:
        tree = _parser.parse(pattern)
        loops = list(_loops(tree))
        return len(loops) > LOOPS or any(_chooses(body) for body in loops)
    except (re.error, RecursionError, OverflowError):
        return False


def _loops(tree: Any) -> Iterator[Any]:
    """Give the bodies of the loops in a parsed pattern, outermost first."""
    for operation, argument in tree:
        if str(operation) in {"MAX_REPEAT", "MIN_REPEAT"} and argument[1] > MANY:
            yield argument[2]
        for inner in _inner(argument):
            yield from _loops(inner)


def _chooses(body: Any) -> bool:
    """Tell whether the body of a loop has a loop or a choice in it, so that it may match one text in several ways."""
    for operation, argument in body:
        if str(operation) in {"MAX_REPEAT", "MIN_REPEAT", "BRANCH"}:
            return True
        if any(_chooses(inner) for inner in _inner(argument)):
            return True
    return False


def _inner(argument: Any) -> Iterator[Any]:
    """Give the parsed patterns inside an operation's argument."""
    if type(argument).__name__ == "SubPattern":
        yield argument
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _inner(part)
