"""The loader strip: which loader version makes what of which tie group."""

from __future__ import annotations

from tiecheck.records.report import TargetReport, TieEntry
from tiecheck.records.words import HURTS, Outcome
from tiecheck.render.drawing import CHARACTER, Picture, clean, label, shortened

CELL, TOP, RIGHT = 26, 128, 96
"""Sizes of the strip: a cell's side, the room for loaders, and for the end of the last one's."""

ROWS = 40
"""Tie groups that are drawn."""


def outcome_mark(outcome: Outcome) -> tuple[str, str]:
    """Return a letter and a class of the style sheet for an outcome, so that colour alone tells nothing."""
    if outcome in HURTS:
        return ("X" if outcome == "crash" else "!", "lost")
    return {"tied": ("=", "tied"), "kept-apart": ("|", "apart")}.get(outcome, ("?", "unknown"))


def loader_strip(target: TargetReport) -> Picture | None:
    """Draw the tie groups of a target against the loaders; None where no loader is known."""
    columns = list(dict.fromkeys((entry.loader, entry.versions) for entry in target.loaders))
    if not columns or not target.ties:
        return None
    rows = target.ties[:ROWS]
    left = int(CHARACTER * max(len(_short(tie)) for tie in rows)) + 16
    parts = []
    for i, (loader, versions) in enumerate(columns):
        x = left + CELL * i + CELL // 2
        title = clean(f"{loader} {versions}")
        parts.append(f'<text transform="translate({x + 4},{TOP - 6}) rotate(-55)">{title}</text>')
    for row, tie in enumerate(rows):
        y = TOP + CELL * row
        parts.append(label(left - 8, y + 17, _short(tie), "end"))
        parts += [_cell(target, tie, column, left + CELL * i, y) for i, column in enumerate(columns)]
    width, height = left + CELL * len(columns) + RIGHT, TOP + CELL * len(rows) + 4
    return Picture(f"{target.target}: tie groups and loaders", width, height, "".join(parts))


def _cell(target: TargetReport, tie: TieEntry, column: tuple[str, str], x: int, y: int) -> str:
    found = [
        entry
        for entry in target.loaders
        if (entry.loader, entry.versions) == column and set(entry.names) & set(tie.names)
    ]
    outcome: Outcome = found[0].outcome if found else "unknown"
    mark, style = outcome_mark(outcome)
    return (
        f'<g class="{style}"><title>{clean(f"{_short(tie)}: {outcome} in {column[0]} {column[1]}")}</title>'
        f'<rect x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" rx="3"/>'
        f'<text x="{x + CELL // 2}" y="{y + 17}" text-anchor="middle">{mark}</text></g>'
    )


def _short(tie: TieEntry) -> str:
    more = "" if tie.names_total in (None, 1) else f" +{tie.names_total - 1}"
    return f"{shortened(tie.names[0], 34)}{more}"
