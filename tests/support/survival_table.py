"""The table of what survives what, as it was published for torch 2.13, and the same made here: a page of evidence.

`python tests/support/survival_table.py docs/evidence/survival.md` writes it.
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from tie_kinds import KINDS, Pair

import tiecheck
from tiecheck.records.life import Survival

PUBLISHED = [
    line.split()
    for line in """
deepcopy                 I I x x x I I I
deepcopy-children        x x x x x x x x
half                     I I x x x x I I
to-same-device           I I S S S I I I
share-memory             I I S S S I I I
freeze                   I I S S S I I I
to-meta                  x I x x x x x x
to-empty-from-meta       D I x x x x x x
to-empty-on-cpu          I I x x x x x I
half-overwriting         x I x x x x x x
to-meta-swapping         I I x x x x I I
to-empty-swapping        I I x x x x x I
load-state-dict          I I S S S I I I
load-state-dict-assign   S I S S S S S S
load-clones-assign       x I x x x x x x
load-once-assign         D I x x x D x D
load-once-into-meta      m I x x x m x m
load-once-strict         E E S S S E I I
torch-save-model         I I S S S I I I
pickled                  I I x x x I I I
torch-save-state-assign  S I S S S S S x
safetensors-model        I I S S E I I I
safetensors-into-meta    E E E E E E E I
init-empty-weights       S I - - - - - -
built-on-meta            I I S S S I I I
distribute-module        x I - - - - - -
torchao-quantized        x I - - - - - -
dispatch-to-disk         x I - - - - - -
""".strip().splitlines()
]
"""What torch 2.13, safetensors 0.8, accelerate 1.15 and torchao 0.18 were measured to do, for `tie_kinds.KINDS`.

I one object, S one memory, x two, D two with other values, m half on meta, u unknown, E raises, - not measured.
"""

TOLD_OTHERWISE = {
    ("to-meta", "Listed"): "m",
    ("to-empty-from-meta", "Listed"): "m",
    ("distribute-module", "Param"): "S",
    ("dispatch-to-disk", "Param"): "u",
}
"""Cells that are told otherwise here, each with its reason in `WHY`; none of them by a version."""

WHY = """
- `to-meta` and `to-empty-from-meta` with a plain list: the list keeps the tensor that was moved away from. The
  published table calls that x; here it is m, half on meta.
- `distribute-module`: two DTensors over one local memory. The published table calls that x, and says of the memory
  that it is shared.
- `dispatch-to-disk`: two parameters on meta, whose values are equal files. The published table calls that x. accelerate
  writes a tied tensor to two files as well, so that it is unknown here.
- Whether two have other values (x or D) is not compared where nobody wrote them: the memory of `to-empty`, and the list
  of a fresh instance.
- `half` with a parameter that is a buffer as well: I or x by the order of registration; this model is built with I.
"""


def letter(row: Survival, before: str) -> str:
    """Return the letter of the only tie after an operation."""
    if row.status != "ran":
        return {"raised": "E", "skipped": "?"}[row.status]
    (cell,) = row.cells
    if cell.kept:
        return before
    if cell.reason is not None and cell.reason.startswith("half of it"):
        return "m"
    if cell.after in ("storage", "overlap"):
        return "S"
    if cell.after == "unknown":
        return "u"
    return "D" if cell.values == "changed" and cell.after == "separate" and row.operation not in NO_VALUES else "x"


NO_VALUES = ("torchao-quantized",)
"""Operations after which the values are others by nature."""


def cells_of(kind: type[Pair]) -> Iterator[tuple[str, str, str]]:
    """Yield operation, published cell and cell made here, of what was measured and of what is installed."""
    column = KINDS.index(kind)
    wanted = [row[0] for row in PUBLISHED if row[1 + column] != "-"]
    found = tiecheck.survive(kind(), operations=wanted)
    before = "S" if found.ties[0].kind == "storage" else "I"
    rows = {row.operation: row for row in found.operations}
    for name, *cells in PUBLISHED:
        if name in wanted and "is not installed" not in str(rows[name].reason):
            here = letter(rows[name], before)
            unwritten = name.startswith("to-empty") or kind is KINDS[-1]
            yield name, cells[column], cells[column] if unwritten and {here, cells[column]} == {"x", "D"} else here


def page() -> str:
    """Return the page."""
    columns = [{name: (published, here) for name, published, here in cells_of(kind)} for kind in KINDS]
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "accelerate", "safetensors", "torchao")]
    head = ["parameter", "module", "Parameter(w)", ".data", "transposed", "buffer", "parameter as buffer", "list"]
    lines = [
        "# Which tie survives what, cell by cell",
        "",
        f"Made by `python tests/support/survival_table.py` with {', '.join(versions)}.",
        "A cell is what was measured by hand before `survive` was there; where `survive` says otherwise, its word",
        "stands after it. `tests/guard/test_survival.py` runs every cell.",
        "",
        "I one object, S one memory, x two, D two with other values, m half on meta, u unknown, E raises,",
        "- not measured.",
        "",
        f"| operation | family | {' | '.join(head)} |",
        f"|{'---|' * (len(head) + 2)}",
    ]
    family = {row.operation: row.family for row in tiecheck.survive(KINDS[0]()).operations}
    for name, *_ in PUBLISHED:
        pairs = [column.get(name, ("-", "-")) for column in columns]
        cells = [one if one == other else f"{one}, here {other}" for one, other in pairs]
        lines.append(f"| {name} | {family[name]} | {' | '.join(cells)} |")
    return "\n".join([*lines, WHY.rstrip(), ""])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
