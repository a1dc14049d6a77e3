"""The row barcode of a difference: which rows of a vocabulary differ, and by how much, at one look."""

from __future__ import annotations

from tiecheck.records.report import TieEntry
from tiecheck.render.drawing import Picture, box, label, shortened

LEFT, TOP, HIGH, ACROSS = 12, 44, 54, 420
"""Room to the left and above, the height of the largest difference, and the width of all rows."""

MEANING = {".": "none differs", "?": "differ, not measured", " ": "not compared"}


def row_barcode(tie: TieEntry) -> Picture | None:
    """Draw a bar for each band of rows that differ; None where no row does.

    A trained head has bars from end to end, added tokens have them at the end alone.
    """
    if tie.rows_apart is None or not tie.rows_apart.strip("."):
        return None
    bands = tie.rows_apart
    rows = tie.shape[0] if tie.shape else len(bands)
    wide = ACROSS / len(bands)
    compared = " and ".join(shortened(name, 26) for name in (tie.stored_names or tie.names)[:2])
    parts = [label(LEFT, 16, "rows that differ, and by how much"), label(LEFT, 34, compared)]
    for i, mark in enumerate(bands):
        first, last = -(-i * rows // len(bands)), -(-(i + 1) * rows // len(bands)) - 1
        told = MEANING.get(mark) or f"differ, by up to {mark}/9 of the largest difference"
        title = f"row {first}: {told}" if first == last else f"rows {first} to {last}: {told}"
        high = HIGH * int(mark) / 9 if mark.isdigit() else HIGH if mark == "?" else 3
        style = "lost" if mark.isdigit() else "unknown" if mark in "? " else "tied"
        parts.append(box(LEFT + wide * i + 0.5, TOP + HIGH - high, max(wide - 1, 1), high, title, style))
    parts.append(label(LEFT, TOP + HIGH + 16, "0"))
    parts.append(label(LEFT + ACROSS, TOP + HIGH + 16, f"{rows - 1:,}", "end"))
    names = " and ".join(tie.names)
    return Picture(f"{names}: rows that differ", LEFT + ACROSS + 12, TOP + HIGH + 24, "".join(parts))
