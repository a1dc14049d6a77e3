"""The module tree of a live model as far as its ties reach, with each tie as an arc."""

from __future__ import annotations

from tiecheck.records.report import TargetReport, TieEntry
from tiecheck.records.words import TIED
from tiecheck.render.drawing import CHARACTER, Picture, clean, label
from tiecheck.wording import counted

LINE, INDENT, OUT = 20, 14, 26
"""The height of a line, what a level goes in, and how far an arc goes out for each group."""

GROUPS, LINES = 12, 60
"""Tie groups, and names of the tree, that are drawn."""


def tie_tree(target: TargetReport) -> Picture | None:
    """Draw the modules and parameters that hang together, or should; None where no module was looked at."""
    ties = [tie for tie in target.ties if tie.kind_from == "live" and len(tie.names) > 1][:GROUPS]
    if "live" not in target.layers or not ties:
        return None
    lines = _lines(ties)
    rows = {path: i for i, path in enumerate(lines)}
    right = 20 + max(INDENT * path.count(".") + CHARACTER * len(path.rpartition(".")[2]) for path in lines)
    parts = []
    for path, row in rows.items():
        depth = path.count(".")
        parts.append(label(12 + INDENT * depth, LINE * row + 15, path.rpartition(".")[2]))
    for number, tie in enumerate(ties):
        parts += _arc(tie, [rows[name] for name in tie.names if name in rows], right, right + OUT * (number + 2))
    more = max(0, sum(tie.kind_from == "live" for tie in target.ties) - len(ties))
    height = LINE * len(lines) + 8
    if more:
        parts.append(label(12, height + 12, f"and {counted(more, 'more group')}"))
        height += LINE
    width = int(right + OUT * (len(ties) + 2) + 12 * CHARACTER)
    return Picture(f"{target.target}: modules that are tied", width, height, "".join(parts))


def _lines(ties: list[TieEntry]) -> list[str]:
    """Return the members of the groups and the modules above them, each before what is below it."""
    found: dict[str, None] = {}
    for name in sorted({name for tie in ties for name in tie.names}):
        above = name.split(".")
        found |= dict.fromkeys(".".join(above[: n + 1]) for n in range(len(above)))
        if len(found) > LINES:
            break
    return list(found)


def _arc(tie: TieEntry, rows: list[int], x: float, out: float) -> list[str]:
    """Return the arcs of one group, from its first member to each other one, with its kind at the widest."""
    if len(rows) < 2:
        return []
    tied = tie.kind in TIED
    style, dash = ("tied", "") if tied else ("lost" if tie.declared else "unknown", ' stroke-dasharray="5 3"')
    title = f"<title>{clean(', '.join(tie.names[:6]))}: {tie.kind}</title>"
    first = LINE * rows[0] + 11
    lines = [
        f'<path{dash} d="M{x:g} {first}C{out:g} {first} {out:g} {LINE * row + 11} {x:g} {LINE * row + 11}"/>'
        for row in rows[1:]
    ]
    y = (first + LINE * rows[-1] + 11) / 2 + 4
    return [f'<g class="{style}">{title}{"".join(lines)}', label(out - OUT / 2 + 4, y, str(tie.kind)), "</g>"]
