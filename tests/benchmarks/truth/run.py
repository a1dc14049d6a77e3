"""Runs the cells of classes: transformers 5 in this process, 4.57 in one subprocess, tiecheck beside them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from loading import load
from older import older_python
from zoo import Animal, animal, own

from tiecheck.tables.architectures import load_architecture, load_older
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates
from truth.judge import Pair, words_on
from truth.mutate import Cell, mutations

SCRIPT = Path(__file__).parents[2] / "support" / "loading.py"


class Older:
    """transformers 4.57 in a process of its own, asked cell by cell."""

    def __enter__(self) -> Self:
        """Start it."""
        self.process = subprocess.Popen(
            [older_python(), str(SCRIPT), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
        )
        return self

    def ask(self, cell: dict[str, Any]) -> None:
        """Have it load a cell while this process does something else."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(cell) + "\n")
        self.process.stdin.flush()

    def answer(self) -> list[Pair]:
        """What it made of the cell that was asked for last."""
        assert self.process.stdout is not None
        outcomes: list[Pair] = json.loads(self.process.stdout.readline())["outcomes"]
        return outcomes

    def load(self, cell: dict[str, Any]) -> list[Pair]:
        """What it makes of a cell."""
        self.ask(cell)
        return self.answer()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Stop it."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(timeout=30)


def classes() -> list[tuple[ClassCandidate, bool]]:
    """Every class of the table that has a group and is built from its own config, and whether it is the first of its
    shape of ties in 5 and 4.57; those first."""
    found = [c for c in class_candidates() if load_architecture(c.class_name, c.model_type).ties and own(c)]
    shapes: set[str] = set()
    first, rest = [], []
    for candidate in found:
        ties = [table(candidate.class_name, candidate.model_type).ties for table in (load_architecture, load_older)]
        (rest if repr(ties) in shapes else first).append(candidate)
        shapes.add(repr(ties))
    return [(c, True) for c in first] + [(c, False) for c in rest]


def row_of(candidate: ClassCandidate, older: Older, *, every_flag: bool) -> dict[str, Any]:
    """The row of a class: what was counted, what is wrong, and why something is unknown; or why it was not built."""
    begin = time.perf_counter()
    torch.manual_seed(0)
    row: dict[str, Any] = {
        "class": candidate.class_name,
        "model_type": candidate.model_type,
        "every_flag": every_flag,
        "not_built": None,
    }
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    try:
        one = animal(candidate)
        row["parameters"] = sum(
            p.numel() for p in build_on_meta(one.model_class, one.config_class, one.data).parameters()
        )
        with tempfile.TemporaryDirectory() as where:
            _count(mutations(one, Path(where), every_flag=every_flag), one, older, Tally(counts, reasons, wrong))
    except Exception as error:  # noqa: BLE001 - a class may refuse a tiny config in any way, and the row says how
        row["not_built"] = f"{type(error).__name__}: {error}"[:300]
    done = {"counts": counts, "reasons": reasons, "wrong": wrong, "seconds": round(time.perf_counter() - begin, 2)}
    return row | done


class Tally(NamedTuple):
    """What is counted of a class."""

    counts: Counter[str]
    """`mutation|kind|column|word` -> groups, and `cells|mutation|kind` -> directories."""
    reasons: Counter[str]
    """`column|word|reason` -> groups."""
    wrong: list[str]
    """Every wrong word."""


def _count(cells: Iterable[Cell], one: Animal, older: Older, tally: Tally) -> None:
    declared: dict[str, list[tuple[str, ...]]] = {}
    refused: str | None = None
    for first, cell in enumerate(cells):
        older.ask(cell.plain())
        five = load(cell.plain())
        four = older.answer()
        if first == 0 and all(outcome == "crash" and ": " in why for outcome, why in four):  # it raised
            refused = f"4.57 cannot load what 5 saves: {four[0][1]}" if four else None
        if refused:
            four = [["unknown", refused] for _ in four]
        key = json.dumps(cell.config)
        if key not in declared:
            declared[key] = []
            with contextlib.suppress(Exception):  # then from_pretrained raises it too
                declared[key] = list(groups_of(build_on_meta(one.model_class, one.config_class, cell.config)))
        tally.counts[f"cells|{cell.mutation}|{cell.kind}"] += 1
        for column, word, why in words_on(
            cell.path, cell.groups, five, four, declared[key], split_flags=cell.split_flags
        ):
            tally.counts[f"{cell.mutation}|{cell.kind}|{column}|{word}"] += 1
            if word == "wrong":
                tally.wrong.append(f"{cell.mutation}, flag {cell.flags}: {column}: {why}")
            elif word in ("unknown", "no truth"):
                tally.reasons[f"{column}|{word}|{why[:160]}"] += 1
