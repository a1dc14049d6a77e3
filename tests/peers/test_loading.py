"""The matrix's word on transformers 5 and 4.57 against the libraries themselves, cell by cell."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from cells import SOURCELESS, Cell, cells
from loading import load
from older import older_python
from zoo import animal, by_name

from tiecheck.config.options import Config
from tiecheck.facts.opening import facts_of
from tiecheck.records.loaders import LoaderView
from tiecheck.tables.architectures import load_older as load_older_table
from tiecheck.targets.parse import parse_target

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = (
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "FalconForCausalLM",
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
)
"""Classes whose default, level, names or number of members differ."""

WITH_DECODERS = (
    "BartForConditionalGeneration",
    "LongT5ForConditionalGeneration",
    "M2M100Model",
    "MBartForConditionalGeneration",
    "PLBartForConditionalGeneration",
    "RagTokenForGeneration",
    "SwitchTransformersForConditionalGeneration",
)
"""Classes that tie a decoder's embedding to another module's: BART's, one around it, and others."""

GENERAL = {"member-discarded": {"head-discarded"}, "member-random": {"head-random", "embedding-random"}}
"""The matrix's word for a group without a head -> the words `loading.py` has for it."""


def views(cell: Cell, versions: str) -> dict[frozenset[str], LoaderView]:
    """The matrix's word on every group of a cell."""
    found = facts_of(parse_target(str(cell.path)), Config()).get("loaders")
    return {frozenset(v.names): v for v in found if (v.loader, v.versions) == ("transformers", versions)}


def judged(some: Iterable[tuple[Cell, list[list[str]]]], versions: str) -> tuple[Counter[str], list[str]]:
    """How many groups were foretold, and every one that was foretold wrongly."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for cell, outcomes in some:
        said = views(cell, versions)
        for group, (outcome, detail) in zip(cell.groups, outcomes, strict=True):
            view = said.get(frozenset(group["names"]))
            if view is None or view.outcome == "unknown" or outcome == "unknown":
                counts["unknown"] += 1
            elif outcome in GENERAL.get(view.outcome, {view.outcome}) or _no_loss(view, str(detail)):
                counts["right"] += 1
            else:
                wrong.append(f"{cell.title}: {group['names']}: {view.outcome}, and it is {outcome} ({detail})")
    return counts, wrong


def _no_loss(view: LoaderView, lost: str) -> bool:
    """True where the matrix names what the library lost, and says that no forward pass reads it."""
    return f"{lost} comes out random, which no forward pass reads" in str(view.message)


def load_older(some: list[Cell], where: Path) -> list[list[list[str]]]:
    """What transformers 4.57 makes of some cells, in its own environment."""
    listing = where / "cells.json"
    listing.write_text(json.dumps([cell.plain() for cell in some]))
    script = Path(__file__).parents[1] / "support" / "loading.py"
    done = subprocess.run(
        [older_python(), str(script), str(listing)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
    )
    return [json.loads(line)["outcomes"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("Qwen2VL")) for n in SAMPLE])
def test_transformers_5_loads_as_foretold(tmp_path: Path, name: str) -> None:
    some = [(cell, load(cell.plain())) for cell in cells(animal(by_name(name)), tmp_path)]
    counts, wrong = judged(some, "5")
    assert wrong == []
    assert counts["right"] > 2 * counts["unknown"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_transformers_4_57_loads_as_foretold(tmp_path: Path, name: str) -> None:
    some = list(cells(animal(by_name(name)), tmp_path))
    counts, wrong = judged(zip(some, load_older(some, tmp_path), strict=True), "4.57")
    assert wrong == []
    assert counts["right"] > counts["unknown"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DECODERS)
def test_4_57_does_with_a_group_without_its_source_as_foretold(tmp_path: Path, name: str) -> None:
    some = list(cells(animal(by_name(name)), tmp_path, SOURCELESS))
    counts, wrong = judged(zip(some, load_older(some, tmp_path), strict=True), "4.57")
    assert wrong == []
    own = load_older_table(name, None).repairs  # LongT5's own `from_pretrained` looks after the missing, where untied
    assert counts["unknown"] <= (2 if own else 0)
