"""Paragraphs of a report for people, wrapped and written.

The lines are the same on a terminal and in a pipe of its width. rich adds the colours, and is imported for them only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from tiecheck.errors import escaped
from tiecheck.records.record import Record

if TYPE_CHECKING:
    from tiecheck.render.reports import Style

WIDTH = 80
"""Columns of a report that goes to no terminal, unless COLUMNS says otherwise."""

NAMES_SHOWN = 4
"""Names of a group, and entries of a list, that are shown."""
CUT = 200
"""Characters of what a tool says, without `-v`."""

NARROWEST, WIDEST = 40, 120
"""Columns between which a report is wrapped, whatever the terminal has."""

SEVERITY_TONES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


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
    extra: str = ""
    """More text, left out where the line would be longer than the page."""


def page_width(stream: TextIO) -> int:
    """Return the columns to wrap to: the terminal's, else those of COLUMNS, else 80."""
    if stream.isatty():
        import shutil

        columns = shutil.get_terminal_size().columns
    else:
        given = os.environ.get("COLUMNS", "")
        columns = int(given) if given.isdecimal() and len(given) < 5 else WIDTH
    return min(max(columns or WIDTH, NARROWEST), WIDEST)


def wants_color(style: Style | None, stream: TextIO) -> bool:
    """Tell whether a report is coloured: --color, then NO_COLOR, then FORCE_COLOR, then what the stream is."""
    asked = "auto" if style is None else style.color
    if asked != "auto" or os.environ.get("NO_COLOR"):
        return asked == "always"
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def write_lines(lines: list[Line], style: Style | None, stream: TextIO) -> None:
    """Write paragraphs, wrapped; in colour on a terminal, or where it is asked for."""
    width = page_width(stream)
    if wants_color(style, stream):
        _write_rich(lines, stream, width)
    else:
        stream.writelines(f"{piece}\n" for line in lines for piece in wrapped(line, width))


def _write_rich(lines: list[Line], stream: TextIO, width: int) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, force_terminal=True, highlight=False, width=width)
    for line in lines:
        for i, piece in enumerate(wrapped(line, width)):
            text = Text(piece)
            if line.tone and (line.lead is None or i == 0):
                end = len(piece) if line.lead is None else line.indent + line.lead
                text.stylize(line.tone, line.indent, end)
            console.print(text, soft_wrap=True)


def wrapped(line: Line, width: int) -> list[str]:
    """Return the physical lines; words are never broken, so that names and paths can be copied."""
    if line.whole:
        return [(" " * line.indent + escaped(line.text)).rstrip()]
    text = " " * line.indent + escaped(line.text)
    if text.isascii() and len(text) + len(line.extra) <= width and line.extra.isprintable():
        return [(text + line.extra).rstrip()]
    words = escaped(line.text).split(" ")
    lines: list[str] = []
    current = " " * line.indent + words[0]
    for word in words[1:]:
        if cells(current) + 1 + cells(word) > width and current.strip():
            lines.append(current)
            current = " " * (line.indent + line.hang) + word
        else:
            current += " " + word
    if line.extra and not lines and cells(current) + cells(line.extra) <= width:
        current += escaped(line.extra)
    lines.append(current)
    return [text.rstrip() for text in lines]


def first_names(names: Sequence[str], mark: str = ", ") -> str:
    """Return the first of some names, and how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return mark.join(names[:NAMES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def cut_text(text: str, style: Style) -> str:
    """Return what a tool says, on one line, and cut where not everything is wanted."""
    line = " ".join(text.split())
    return line if style.verbose or len(line) <= CUT else f"{line[:CUT]}..."


def cells(text: str) -> int:
    """Return the columns that a text takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
