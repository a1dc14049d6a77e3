"""The matrix of `tiecheck survive`, as text: a row an operation, a column a tie."""

from __future__ import annotations

from typing import TextIO

from tiecheck.records.life import Cell, Survival, SurvivalMatrix
from tiecheck.render.lines import Line, write_lines
from tiecheck.render.reports import Style
from tiecheck.wording import counted, listed

WORDS = {"storage": "memory", "overlap": "overlap", "copy": "copies", "separate": "apart", "absent": "gone"}
"""Kind -> what a cell says of a tie that was not kept."""

COLUMNS = 6
"""Ties that have a column; the others are in the JSON report."""

LEGEND = (
    "kept: as tied as before. memory: several parameters over one memory. copies: equal, and two. apart: two, with "
    "different values. half: one of them on the meta device. unused: one parameter, used in two ways. *: its values "
    "are not those of before. (x): the operation separates or empties tensors by nature."
)


def cell_word(cell: Cell) -> str:
    """Return the word for one tie after one operation."""
    star = "*" if cell.values == "changed" else ""
    if cell.kept:
        return "kept" + star
    if cell.after == "unknown":
        return "unknown"
    if cell.reason is not None and cell.reason.startswith("half of it"):
        return "half"
    if cell.after == cell.before:
        return "unused"
    return WORDS.get(cell.after, cell.after) + star


def row_words(row: Survival, columns: int) -> list[str]:
    """Return the words of a row, one a tie; the first stands for all where it did not run."""
    if row.status != "ran":
        return [row.status]
    return [cell_word(cell) for cell in row.cells[:columns]]


def row_notes(row: Survival) -> list[str]:
    """Return what there is to say of a row beside its words."""
    notes = [row.reason] if row.reason is not None else []
    notes += [f"ties {listed(names)}" for names in row.made]
    notes += [f"does not bring back {listed(row.lost)}"] if row.lost and not row.by_nature else []
    notes += ["the logits differ"] if row.outputs == "differ" and not row.by_nature else []
    return notes


def render(found: SurvivalMatrix, style: Style, stream: TextIO) -> None:
    """Write the matrix; rows that were skipped, and those that kept all, in a line each unless verbose."""
    lines = [Line(found.target, 0, 2, "bold")]
    for number, tie in enumerate(found.ties[:COLUMNS], 1):
        lines.append(Line(f"{number}  {' = '.join(tie.names)} ({tie.kind})", 2, 3))
    if len(found.ties) > COLUMNS:
        lines.append(Line(f"and {len(found.ties) - COLUMNS} more ties, in the JSON report", 2, 2, "dim"))
    if not found.ties:
        lines.append(Line("nothing is tied in it", 2))
    width = max((len(row.operation) for row in found.operations), default=0) + 6
    for row in found.operations:
        if row.status == "skipped" and not style.verbose:
            continue
        words = row_words(row, COLUMNS)
        mark = " (x)" if row.by_nature else ""
        bad = any(not cell.kept for cell in row.cells) or row.status == "raised"
        tone = ("yellow" if row.by_nature else "red") if bad else "green"
        text = f"{row.operation + mark:<{width}}" + " ".join(f"{word:<8}" for word in words)
        lines.append(Line(text, 2, 0, tone, None, True))
        if style.verbose:
            lines.append(Line(row.words, 6, 2, "dim"))
        lines += [Line(note, 6, 2) for note in row_notes(row)]
    skipped = [row.operation for row in found.operations if row.status == "skipped"]
    if skipped and not style.verbose:
        told = f"skipped: {counted(len(skipped), 'operation')}, which lack a library or do not fit the model (-v tells)"
        lines.append(Line(told, 0, 2, "dim"))
    write_lines([*lines, Line(LEGEND, 0, 2, "dim")], style, stream)
