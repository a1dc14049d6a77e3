"""The matrix of `tiecheck survive` as Markdown."""

from __future__ import annotations

from typing import TextIO

from tiecheck.records.life import SurvivalMatrix
from tiecheck.render.markdown import code_text, markdown_text
from tiecheck.render.reports import Style
from tiecheck.render.survival import LEGEND, row_notes, row_words


def render(found: SurvivalMatrix, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the matrix as a table of Markdown."""
    head = ["operation", *(" = ".join(map(code_text, tie.names)) for tie in found.ties), "notes"]
    stream.write(f"# {markdown_text(found.target)}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n")
    for row in found.operations:
        words = row_words(row, len(found.ties))
        words += [""] * (len(found.ties) - len(words))
        mark = " (x)" if row.by_nature else ""
        cells = [row.operation + mark, *words, "; ".join(row_notes(row))]
        stream.write(f"| {' | '.join(map(markdown_text, cells))} |\n")
    stream.write(f"\n{LEGEND}\n")
