"""Paragraphs of a report for people, wrapped and written.

The lines are the same on a terminal and in a pipe. rich adds the colours, and is imported for a terminal only.
"""

from __future__ import annotations

import os
from typing import TextIO

from tiecheck.records.record import Record
from tiecheck.render.reports import Style

WIDTH = 80
"""Columns of a report that goes to no terminal."""


class Line(Record):
    """One paragraph: wrapped to the width, its further lines indented by `hang`."""

    text: str
    indent: int = 0
    hang: int = 0
    tone: str | None = None
    """rich's style for the first `lead` characters, or for all of them where `lead` is None."""
    lead: int | None = None
    whole: bool = False
    """True where it is never wrapped: a row of a table, a line of code."""


def write_lines(lines: list[Line], style: Style, stream: TextIO) -> None:
    """Write paragraphs, wrapped; in colour on a terminal, or where it is asked for."""
    colored = style.color == "always" or (style.color == "auto" and stream.isatty() and "NO_COLOR" not in os.environ)
    if colored:
        _write_rich(lines, stream)
    else:
        stream.writelines(f"{piece}\n" for line in lines for piece in _wrapped(line, WIDTH))


def _write_rich(lines: list[Line], stream: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, force_terminal=True, highlight=False)
    for line in lines:
        for i, piece in enumerate(_wrapped(line, min(console.width, 100))):
            text = Text(piece)
            if line.tone and (line.lead is None or i == 0):
                end = len(piece) if line.lead is None else line.indent + line.lead
                text.stylize(line.tone, line.indent, end)
            console.print(text, soft_wrap=True)


def _wrapped(line: Line, width: int) -> list[str]:
    """Return the physical lines; words are never broken, so that names and paths can be copied."""
    if line.whole:
        return [(" " * line.indent + escaped(line.text)).rstrip()]
    words = escaped(line.text).split(" ")
    lines: list[str] = []
    current = " " * line.indent + words[0]
    for word in words[1:]:
        if len(current) + 1 + len(word) > width and current.strip():
            lines.append(current)
            current = " " * (line.indent + line.hang) + word
        else:
            current += " " + word
    lines.append(current)
    return [text.rstrip() for text in lines]


def escaped(text: str) -> str:
    """Escape every control character of a text: a tensor's name may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
