"""What people bring: each layout in each state, what tiecheck says of it, and what its own library makes of it.

`PYTHONPATH=tests/support python tests/evidence/layout_cells.py` makes the layouts whose libraries are here, and writes
their rows of layout_cells.tsv; `python docs/generate.py` makes the table of docs/evidence/layouts.md of them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROWS = Path(__file__).with_name("layout_cells.tsv")
STATES = ("tied", "untied", "diverged", "damaged")

MEANING = """\
A cell has what tiecheck says, and what the layout's own library makes of it: the values `kept` as they were meant,
`lost`, the load `refused`, or `not run` where none of its libraries was run: those of `script` are written by committed
lines in the tool's format. `diverged` is a second tensor under a true flag, or what comes nearest to it in a layout
without one; `damaged` is the tied one, cut off at two thirds. A layout that is `named` is refused as what it is, with
its way to a checkpoint that is read. `diverged` is judged `--for` the transformers that loads it here. A GGUF file is
run by llama.cpp (the build of xllamacpp) and loaded by transformers, and kept where both keep it. Of vLLM 0.32 on a
CPU its loader was run, and what shares a draft's embedding and head with its target; no token was drafted. Of SGLang
nothing was run. Where a library is not installed, the test of its layout is skipped and names it, and where vLLM is
missing its load is left out; the row stays held to what is written here."""


class Cell(NamedTuple):
    """One layout in one state, as it was last made."""

    layout: str
    state: str
    by: str
    """Libraries that made it, or that loading it needs, with their versions; or `script`."""
    loaded: str
    """Libraries that loaded it; `nothing` where none did."""
    said: str
    """Status and codes of warnings and errors, or `named` for what is refused by its name."""
    truth: str
    """`kept`, `lost`, `refused` or `not run`."""


def read_cells() -> dict[tuple[str, str], Cell]:
    """Read every cell that was made."""
    lines = ROWS.read_text().splitlines() if ROWS.exists() else []
    return {(cell.layout, cell.state): cell for cell in (Cell(*line.split("\t")) for line in lines)}


def make_cell(name: str, state: str, where: Path) -> Cell:
    """Make one layout in one state, judge it, and load it by its own library."""
    from importlib.metadata import version

    from brought_layouts import LAYOUTS, cut, truth_of

    one = LAYOUTS[name]
    made = one.make(where, state)
    if state == "damaged":
        cut(made)
    said, truth = said_of(made.target, made.options), truth_of(made)
    names = [word for word in (one.needs or "torch transformers").split() if not word.isupper()]
    dists = {"mlx_lm": "mlx-lm", "whisper": "openai-whisper", "nemo": "nemo_toolkit", "megatron": "megatron-core"}
    by = "script" if one.script else " ".join(f"{w} {version(dists.get(w, w)).partition('+')[0]}" for w in names)
    return Cell(name, state, by, one.loads or ("nothing" if one.script else "torch"), said, truth)


def said_of(target: Path, options: dict[str, object]) -> str:
    """Judge a target as the command line does; status and codes of each, in one line."""
    import tiecheck
    from tiecheck.targets.parse import targets_below

    told = set()
    for part in targets_below(str(target)):
        report = tiecheck.check(part, **options)
        assert not any("itself failed" in error.message for error in report.errors), report.errors
        status = "named" if any("is not read" in e.message for e in report.errors) else report.targets[0].status
        loud = {f.code for f in report.findings if f.severity != "info" and f.code != "TIE701"}
        told.add(" ".join((status, *sorted(loud))))
    return ", ".join(sorted(told))


def page_text(cells: dict[tuple[str, str], Cell]) -> str:
    """Return the page: a row for each layout, in each state what is said and what is true."""
    lines = ["# What people bring, by its own libraries", "", *__doc__.splitlines()[2:], ""]
    lines += [*MEANING.splitlines(), ""]
    lines += [f"| layout | made with | loaded by | {' | '.join(STATES)} |", "|---" * 7 + "|"]
    for name in dict.fromkeys(layout for layout, _ in cells):
        told = [cells[name, state] for state in STATES]
        cells_ = " | ".join(f"{one.said} / {one.truth}" for one in told)
        lines.append(f"| {name} | {told[0].by} | {told[0].loaded} | {cells_} |")
    return "\n".join([*lines, ""])


def write_cells(cells: dict[tuple[str, str], Cell], order: list[str]) -> None:
    """Write every cell, in the order of the layouts."""
    rows = sorted(cells.values(), key=lambda cell: (order.index(cell.layout), STATES.index(cell.state)))
    ROWS.write_text("".join("\t".join(row) + "\n" for row in rows))


def main() -> None:
    """Make the cells that can be made here, and keep the others; words name layouts."""
    import brought_drafts  # noqa: F401  # adds its layouts
    import brought_stored  # noqa: F401  # adds its layouts
    from brought_layouts import LAYOUTS, installed

    for name, one in LAYOUTS.items():
        here = installed(one.needs) and ("vllm" not in one.loads or installed("TIECHECK_VLLM"))
        if here and (not sys.argv[1:] or name in sys.argv[1:]):
            made = {}
            for state in STATES:
                with tempfile.TemporaryDirectory() as folder:
                    made[name, state] = make_cell(name, state, Path(folder) / "made")
                print(*made[name, state], sep="\t", flush=True)
            write_cells(read_cells() | made, list(LAYOUTS))


if __name__ == "__main__":
    main()
