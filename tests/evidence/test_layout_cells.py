"""Every layout that people bring, tied, untied, diverged and damaged: each made again here, and held to its library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brought_drafts  # noqa: F401  # adds its layouts
import brought_stored  # noqa: F401  # adds its layouts
import pytest
from brought_layouts import LAYOUTS, installed
from layout_cells import ROWS, STATES, make_cell, read_cells

pytestmark = pytest.mark.filterwarnings("ignore")

CELLS = read_cells()

SLOW = ("FSDP", "optimum", "DeepSpeed", "compressed", "GPTQ", "AWQ")


def test_every_layout_is_there_in_every_state() -> None:
    assert set(CELLS) == {(name, state) for name in LAYOUTS for state in STATES}
    assert len(ROWS.read_text().splitlines()) == len(CELLS)


@pytest.mark.parametrize("cell", list(CELLS.values()), ids=lambda cell: f"{cell.layout}, {cell.state}")
def test_nothing_is_said_that_its_own_library_denies(cell: Any) -> None:
    assert ("error" in cell.said or cell.said == "named") or cell.state != "damaged"
    if cell.said.startswith("pass"):
        assert cell.truth in ("kept", "not run")
    if cell.said.startswith("fail"):
        twice = "TIE631" in cell.said  # nothing is lost but room
        assert cell.truth in ("lost", "refused") or twice
    if cell.truth == "lost":
        assert cell.said.startswith("fail")


def cells() -> Iterator[Any]:
    for name in LAYOUTS:
        for state in STATES:
            marks = [pytest.mark.slow] if name.startswith(SLOW) else []
            yield pytest.param(name, state, marks=marks, id=f"{name}, {state}")


@pytest.mark.parametrize(("name", "state"), list(cells()))
def test_a_layout_is_made_and_told_as_it_was(name: str, state: str, tmp_path: Path) -> None:
    if not installed(LAYOUTS[name].needs):  # a dozen heavy libraries, made where they are; the row is held above
        pytest.skip(f"{LAYOUTS[name].needs} is not installed")
    kept, made = CELLS[name, state], make_cell(name, state, tmp_path / "made")
    assert made.said == kept.said
    # vLLM is an interpreter of its own, which TIECHECK_VLLM names: without it what it made of a row is not asked again
    assert made.truth == kept.truth or (kept.loaded == "vllm" and "TIECHECK_VLLM" not in os.environ)
