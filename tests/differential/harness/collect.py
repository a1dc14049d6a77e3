"""A run: directories drawn, judged and counted, and every kind of wrong verdict shrunk to one line that replays it."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from harness.cases import Case, cases
from harness.configs import SIZES
from harness.draft import Draft
from harness.oracle import Line, Oracle
from harness.saves import Save
from harness.verdicts import Said, Word, say, words_on

FLAG = "tie_word_embeddings"

MOST = 100
"""Kinds that are shrunk."""

CHECKS = list(HealthCheck)


class Judged(NamedTuple):
    """One directory, judged."""

    case: Case
    words: tuple[Word, ...]
    status: str
    healthy: bool
    """Whether both lines load it exactly."""

    @property
    def wrong(self) -> list[Word]:
        """What is wrong of it."""
        return [word for word in self.words if word.wrong]


class Kind(NamedTuple):
    """Wrong verdicts of one kind, by the smallest directory that has it."""

    kind: str
    line: str
    what: str
    changes: frozenset[str]
    """The mutators without which it is not so."""
    case: Case
    why: str

    @property
    def title(self) -> str:
        """One line."""
        changes = " + ".join(sorted(self.changes)) or "untouched"
        return f"{self.kind} {self.line}: {self.what} [{changes}]"

    def covers(self, case: Case, word: Word) -> bool:
        """Whether a wrong word of another directory is of this kind."""
        here = {change_of(change) for change in case.mutations} | ({"variant"} if case.variant else set())
        return (self.kind, self.line, self.what) == word[:3] and self.changes <= here


def change_of(change: object) -> str:
    """Return a mutator's name with what matters most of its fields."""
    detail = getattr(change, "how", None) or getattr(change, "kind", None) or getattr(change, "prefix", None)
    if hasattr(change, "path"):
        last = change.path.rpartition(".")[2]
        key = "flag" if last == FLAG else "size" if last in SIZES else last
        value = "..." if change.value is ... else type(change.value).__name__
        detail = f"{'nested ' if '.' in change.path else ''}{key} {value}"
    return f"{type(change).__name__}({detail})" if detail else type(change).__name__


class Bench:
    """Judges case after case in one scratch directory."""

    def __init__(
        self,
        oracle: Oracle,
        where: Path,
        rng: random.Random,
        share: float = 0.1,
        say: Callable[[Path], Said] = say,
    ) -> None:
        """Take the oracle, a scratch directory, the share of cases that get a real load, and what is judged."""
        self.oracle, self.where, self.rng, self.share, self.say = oracle, where, rng, share, say

    def judge(self, case: Case) -> Judged:
        """Write a case, ask both sides, and compare."""
        shutil.rmtree(self.where, ignore_errors=True)
        draft: Draft | None = None
        try:
            draft = case.write(self.where)
            real = draft.valued or self.rng.random() < self.share
            lines = self.oracle.ask(self.where, draft, real=real)
            said = self.say(self.where)
            words = tuple(words_on(said, lines))
        except Exception:  # noqa: BLE001 - tiecheck raised, or this harness
            told = traceback.format_exc().strip()
            kind = "own error" if "tiecheck/" in told.rpartition("harness/")[2] else "harness"
            return Judged(case, (Word(kind, "", told.splitlines()[-1][:160], told),), "raised", healthy=False)
        return Judged(case, words, said.report.status if said.report else "error", _healthy(lines))


def _healthy(lines: list[Line]) -> bool:
    sure = [line for line in lines if not line.doubt]
    return bool(sure) and all(line.right() for line in sure)


def shrunk(bench: Bench, case: Case, word: Word) -> tuple[Case, Word]:
    """Return the smallest case that still has a wrong word of one kind."""
    for smaller in case.smaller():
        found = next((w for w in bench.judge(smaller).words if w[:3] == word[:3]), None)
        if found:
            return shrunk(bench, smaller, found)
    return case, word


class Run(NamedTuple):
    """All that a run found."""

    judged: list[Judged]
    kinds: list[tuple[Kind, list[Case]]]
    seconds: float
    classes: int
    real_loads: int
    unshrunk: Counter[str]

    def counts(self) -> Counter[str]:
        """Words by kind and line."""
        return Counter(f"{w.kind} {w.line}".strip() for one in self.judged for w in one.words)


def drawn(pool: list[Save], number: int, start: int) -> list[Case]:
    """Draw directories from a seed, each a changed save."""
    found: list[Case] = []

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=CHECKS,
    )
    @given(cases(pool))
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found


def collect(
    found: list[Case],
    start: int,
    older: str | None,
    told: Callable[[Judged], None] = lambda _: None,
    minutes: float = float("inf"),
) -> Run:
    """Judge directories, then shrink what is wrong.

    Args:
        found: The directories.
        start: The seed that chooses which get a real load too.
        older: The interpreter with transformers 4.57; None for 5 alone.
        told: Called with each directory as it is judged.
        minutes: The time to judge in; half of it more may be taken to shrink, and what is left is shown as drawn.
    """
    begin, judged = time.perf_counter(), []
    oracle = Oracle(older)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(oracle, Path(scratch, "model"), random.Random(start))
        for case in found:
            if time.perf_counter() > begin + 60 * minutes:
                break
            judged.append(bench.judge(case))
            told(judged[-1])
        kinds, unshrunk = kinds_of(bench, judged, begin + 90 * minutes)
        oracle.close()
    names = {one.case.class_name for one in judged}
    return Run(judged, kinds, time.perf_counter() - begin, len(names), oracle.real_loads, unshrunk)


def kinds_of(bench: Bench, judged: list[Judged], until: float) -> tuple[list[tuple[Kind, list[Case]]], Counter[str]]:
    """Shrink one directory of every kind, as long as there is time, and put the others to it."""
    kinds: list[tuple[Kind, list[Case]]] = []
    left: Counter[str] = Counter()
    for one in sorted(judged, key=lambda one: (len(one.case.mutations), bool(one.case.variant))):
        for word in {w[:3]: w for w in one.wrong}.values():
            found = next((cases for kind, cases in kinds if kind.covers(one.case, word)), None)
            if found is not None:
                found.append(one.case)
            elif len(kinds) >= MOST:
                left[f"{word.kind} {word.line}: {word.what}"] += 1
            else:
                case, small = shrunk(bench, one.case, word) if time.perf_counter() < until else (one.case, word)
                changes = {change_of(change) for change in case.mutations} | ({"variant"} if case.variant else set())
                kinds.append((Kind(*word[:3], frozenset(changes), case, small.why), [one.case]))
    return sorted(kinds, key=lambda item: -len(item[1])), left
