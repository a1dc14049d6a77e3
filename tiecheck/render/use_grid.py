"""The grid of uses: which tensors a forward pass reads, and as what."""

from __future__ import annotations

from tiecheck.records.report import TargetReport
from tiecheck.records.uses import Use, is_plain, names_not_taken
from tiecheck.render.drawing import Picture, box, label, shortened

ROLES = ("embedding", "linear", "other", "unread")
LEFT, CELL, LINE, ROWS = 420, 84, 22, 40
"""Room for names, the width of a cell, the height of a line, and the tensors that are drawn."""


def use_grid(target: TargetReport) -> Picture | None:
    """Draw a row for each tensor but plain weights of one layer, a cell for each part that it plays; None for none."""
    by_names: dict[tuple[str, ...], list[Use]] = {}
    for use in target.uses.uses if target.uses is not None else ():
        by_names.setdefault(use.names, []).append(use)
    rows = [(names, uses) for names, uses in by_names.items() if not is_plain(uses)][:ROWS]
    if not rows:
        return None
    parts = [label(LEFT + CELL * (i + 0.5), 16, role, "middle") for i, role in enumerate(ROLES)]
    for row, (names, uses) in enumerate(rows):
        y = LINE * (row + 1) + 4
        title = " = ".join(names[:2]) or f"a tensor of elsewhere {list(uses[0].shape)}"
        parts.append(label(LEFT - 8, y + 15, shortened(title, 54), "end"))
        for i, role in enumerate(ROLES):
            held = [use for use in uses if use.role == role]
            if held:
                ops = ", ".join(f"{use.op or 'nothing'}{' transposed' if use.transposed else ''}" for use in held)
                style = "lost" if role == "unread" or not names else "tied"
                parts.append(box(LEFT + CELL * i + 2, y, CELL - 4, LINE - 3, f"{title}: {role} by {ops}", style))
                parts.append(
                    label(LEFT + CELL * (i + 0.5), y + 15, "none" if role == "unread" else str(len(held)), "middle")
                )
        left = names_not_taken(uses)
        if left:
            parts.append(label(LEFT + CELL * len(ROLES) + 8, y + 15, f"not as {shortened(left[0], 36)}"))
    wide = LEFT + CELL * len(ROLES) + 330
    return Picture(f"{target.target}: what forward reads", wide, LINE * (len(rows) + 1) + 8, "".join(parts))
