"""The fixes that are offered for a drawn directory, each carried out and loaded, and what must not be offered."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self
from unittest import mock

import torch
import transformers
from safetensors.torch import load_file

from harness.cases import Case
from harness.draft import Draft
from harness.oracle import LOSSES, Line, Oracle
from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.errors import TiecheckError
from tiecheck.fix.run import FixOptions, FixOutcome, fix_target
from tiecheck.live.rehearsal import rehearse
from tiecheck.records.loaders import Rehearsal
from tiecheck.records.report import Finding

STAYING = {"loss stays", "raises as before"}
"""What is left of a load that was wrong."""

OLDER = "the older line fails as before"
"""In a line that is not installed where the fix is made, by what no table tells: the load raised as well, or a tensor
of no tie was not loaded either."""

EQUAL = {"TIE103", "TIE106", "TIE108", "TIE109"}
"""Rules on equal copies, of which a load that is right may have two: their fixes must leave it right."""


BLOWN = 3.5
"""Deviation of the logits from which a model starts as wrong as TIE701 says: 4 by prediction, own tokens aside."""


class Mended(NamedTuple):
    """One fix that was offered, and what came of it."""

    case: Case
    codes: tuple[str, ...]
    choice: str | None
    kind: str
    """`good`, `refused`, `not kept` (nothing is written), `unsure`; `loss stays, said` and `raises as before, said`
    where the fix tells what it leaves. Without that they are wrong; `worse` and `for what is right` always. `OLDER` is
    neither."""
    why: str = ""

    @property
    def title(self) -> str:
        """One line that is alike for fixes that fail alike."""
        changes = " + ".join(type(change).__name__ for change in self.case.mutations)
        return f"{self.kind}: {'+'.join(self.codes)} {self.choice} [{changes}] {self.why}"


def mended(oracle: Oracle, where: Path, case: Case) -> Iterator[Mended]:
    """Write a directory, and yield every fix that is offered for it."""
    for folder in (where, where.with_name("fixed")):
        shutil.rmtree(folder, ignore_errors=True)
    draft = case.write(where)
    before = oracle.ask(where, draft, real=False)
    config = Config(judge_for=tuple(f"transformers=={line.version}" for line in before))
    report = check_target(str(where), config)
    counted = [finding for finding in report.counted() if finding.severity != "info"]
    sure = [line for line in before if not line.doubt]
    if sure and all(line.right() for line in sure):
        unasked = [f for f in counted if f.code not in EQUAL and any(edit.when is None for edit in f.edits)]
        if any(f.code == "TIE701" for f in unasked) and _logits(where) > BLOWN:
            unasked = [f for f in unasked if f.code != "TIE701"]  # it speaks of the start, and is right
        codes = tuple(sorted({f.code for f in unasked}))
        if codes:
            yield Mended(case, codes, None, "for what is right", unasked[0].message)
            return
    for choice in _choices(counted):
        copy = where.with_name("fixed")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            with mock.patch("tiecheck.live.rehearsal.Rehearser", InProcess):
                outcome = fix_target(str(where), config, FixOptions(choice, to=str(copy)))
        except TiecheckError as error:
            yield Mended(case, tuple(sorted({f.code for f in counted})), choice, "refused", str(error))
            continue
        codes = tuple(sorted({finding.code for finding, _ in outcome.chosen}))
        if outcome.undone:
            yield Mended(case, codes, choice, "not kept", outcome.undone[0])
        elif outcome.written:
            names = {name for finding, _ in outcome.chosen for name in finding.names}
            after = oracle.ask(copy, draft_of(copy, draft), real=False)
            kind, why = _outcome(before, after, names, outcome)
            yield Mended(case, codes, choice, kind, why)


def _logits(where: Path) -> float:
    """Return the deviation of the logits of random tokens, by a real load and a real forward pass."""
    config = json.loads((where / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(where, local_files_only=True).eval()
    ids = torch.randint(8, model.get_input_embeddings().weight.shape[0], (2, 16))
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).logits.std())


def _choices(findings: list[Finding]) -> list[str | None]:
    safe = [edit for finding in findings for edit in finding.edits if edit.safe]
    words = list(dict.fromkeys(edit.choice for edit in safe if edit.when is not None))
    return words or ([None] if safe else [])


def draft_of(where: Path, old: Draft) -> Draft:
    """What stands in a directory that was fixed."""
    tensors = {n: t for path in sorted(where.glob("*.safetensors")) for n, t in load_file(path).items()}
    if not tensors:
        for path in sorted(where.glob("*.bin")):
            tensors |= torch.load(path, weights_only=True)
    files = {member: name if name in tensors else member for member, name in old.files.items()}
    config = json.loads((where / "config.json").read_text())
    return Draft(old.save, config, tensors, files, old.layout)


class InProcess:
    """The rehearsal of transformers 5 in this process, in the place of one that starts another."""

    def __init__(self, python: str) -> None:
        """Take the interpreter that is not started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def rehearse(self, path: str) -> Rehearsal:
        """Rehearse the load."""
        return rehearse(path)


def _outcome(before: list[Line], after: list[Line], names: set[str], outcome: FixOutcome) -> tuple[str, str]:
    """Tell what became of a load: the worst over all lines."""
    worst = ("good", "")
    for was, now in zip(before, after, strict=True):
        if was.doubt and now.doubt:
            continue  # a class that this line does not have
        kind, why = _line_outcome(was, now, names)
        if kind == "worse":
            return kind, f"{now.version}: {why}"
        if kind in STAYING and _is_said(now, after[0], outcome):
            kind += ", said"
        elif now is not after[0] and kind in STAYING and not (_tie_is_lost(now) and not now.rehearsal.raised):
            kind = OLDER
        if kind != "good" and (worst[0] not in STAYING or kind in STAYING):
            worst = (kind, f"{now.version}: {why}")
    return worst


def _is_said(line: Line, newest: Line, outcome: FixOutcome) -> bool:
    """Whether the fix tells of what it leaves: by the load that it heard, alike in this line, or by a finding on it."""
    assert outcome.after is not None
    told = [finding for finding in outcome.after.counted() if finding.severity != "info"]
    left = any(_hurts(finding, line.version) for finding in told)
    if outcome.stays and newest.rehearsal.raised:
        return left or line is newest or line.rehearsal.raised is not None
    unused = line.rehearsal.unexpected
    if outcome.stays and unused and {*unused} <= {*newest.rehearsal.unexpected}:
        return True  # a tensor under a name that neither line knows is told
    alike = line is newest or (line.rehearsal.raised is None and _lacking(line) <= _lacking(newest) != set())
    return bool(outcome.stays and alike) or left


def _tie_is_lost(line: Line) -> bool:
    return any(line.end(group).word in LOSSES for group in line.groups())


def _lacking(line: Line) -> set[str]:
    """Parameters of the class that nothing is loaded for, or that the library reports as of another shape."""
    return {*line.rehearsal.missing, *line.rehearsal.mismatched}


def _hurts(finding: Finding, version: str) -> bool:
    return not finding.hurts or any(title.endswith(version) for title in finding.hurts)


def _line_outcome(was: Line, now: Line, names: set[str]) -> tuple[str, str]:
    if now.doubt:
        return "unsure", now.doubt
    if now.rehearsal.raised:
        lost = was.rehearsal.raised or was.doubt or not any(held.state == "loaded" for held in was.rehearsal.held)
        kind = "raises as before" if lost else "worse"
        return kind, ": ".join(now.rehearsal.raised)[:160]
    for group in now.groups():
        end, old = now.end(group), was.end(group)
        if end.word in LOSSES:
            if old.word not in LOSSES and not was.doubt:
                return "worse", f"{group[:3]}: {old.word}, and now {end.word}"
            if names & set(group):
                return "loss stays", f"{group[:3]}: {end.word} {end.members[:3]}"
    lacking = _lacking(now)
    if not (was.doubt or was.rehearsal.raised) and lacking - _lacking(was):
        return "worse", f"and now {min(lacking)} is not loaded"
    return ("loss stays", f"{min(lacking)} is not loaded") if lacking else ("good", "")


def collect_mends(found: list[Case], older: str | None, told: Callable[[int], None] = lambda _: None) -> list[Mended]:
    """Return what became of every fix that is offered for some directories."""
    made: list[Mended] = []
    oracle = Oracle(older)
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(found, 1):
            made.extend(mended(oracle, Path(scratch, "model"), case))
            told(number)
    oracle.close()
    return made


def mends_page(found: list[Mended], about: str = "") -> str:
    """Return the page of what became of some fixes: counts, and each kind that is not good with a line to replay it."""
    counts = Counter(one.kind for one in found)
    lines = [
        "# Fixes, carried out and loaded",
        "",
        f"{PAGE}{about}",
        "",
        "| what became of a fix | fixes |",
        "|---|---|",
    ]
    lines += [f"| {kind} | {count:,} |" for kind, count in counts.most_common()]
    lines += [f"| all | {counts.total():,} |", "", "What is not good, alike ones once:", "", "```"]
    kinds: dict[tuple[str, ...], list[Mended]] = {}
    for one in found:
        if one.kind != "good":
            kinds.setdefault((one.kind, *one.codes, str(one.choice)), []).append(one)
    for alike in sorted(kinds.values(), key=lambda held: -len(held)):
        one = min(alike, key=lambda held: len(held.case.mutations))
        lines += [f"{len(alike)} x {one.title}", f"    {one.case!r}"]
    return "\n".join([*lines, "```", ""])


PAGE = """Written by `tests/differential/run.py --mends --older PYTHON --write` this page; do not edit it by hand.

Saves of drawn classes are changed at random and judged, and every fix that is offered as safe is carried out on a
copy. Then transformers 5 and 4.57 load the copy (rehearsed; the fix itself hears 5). `good`: in both lines every
parameter is loaded, no tie is lost, nothing is thrown away. `said`: another fault was there that no fix of files mends,
and the fix tells of it (`left`, `stays`). `not kept`: nothing was written, and the reason is told. `the older line
fails as before`: 4.57 lacks what it lacked before and is no tie's, or raises as before. Wrong would be `worse`, `for
what is right` (a fix that is offered unasked for a model that loads right), `loss stays` and `raises as before` alone.
A load that is right may start wrong: TIE701 counts as true where a real forward pass has the logits that it tells of.
"""
