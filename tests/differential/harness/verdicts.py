"""What plain `tiecheck DIR` says of a directory, held against the truth: what is wrong, and what is unknown and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.oracle import LOSSES, Line
from tiecheck.config.options import Config
from tiecheck.engine.run import judge_facts
from tiecheck.errors import TiecheckError
from tiecheck.facts.opening import facts_of
from tiecheck.records.loaders import LoaderView
from tiecheck.records.report import Finding, TargetReport
from tiecheck.targets.parse import parse_target

OWN_GROUND = {"TIE101", "TIE103", "TIE106", "TIE109", "TIE701"}
"""Rules that say of a load that is exact what is true, where they name nobody whom it hurts: two tensors under a flag
that ties them, flags that disagree over two equal copies, a NaN in both, two copies where the class could have one, the
scale of a model that was never trained (Funnel draws its embedding at 1)."""

NAME = re.compile(r"['\"`]?\b[A-Za-z_]\w*(?:\.\w+)+\b['\"`]?|\d+")


class Said(NamedTuple):
    """What tiecheck says."""

    report: TargetReport | None
    views: tuple[LoaderView, ...]
    error: str = ""
    """What it raised or could not read."""


class Word(NamedTuple):
    """One judgement of tiecheck's, judged."""

    kind: str
    """`right`, `unknown`, `no truth`, `outcome`, `pass`, `alarm`, `refused`, `own error`, `rehearsal`."""
    line: str
    """The line of transformers, or empty."""
    what: str
    """For a wrong one ours and the truth, or the code; for an unknown the reason without names."""
    why: str = ""
    """The same with the names."""

    @property
    def wrong(self) -> bool:
        """Whether somebody is told what is not so."""
        return self.kind not in ("right", "unknown", "no truth")


def say(path: Path) -> Said:
    """Return what `tiecheck.check(path)` says, with the outcome of each group, which its report sums up."""
    config = Config()
    try:
        target = parse_target(str(path))
        facts = facts_of(target, config)
        report = judge_facts(target, facts, config)
        views = facts.known("loaders") or ()
    except TiecheckError as error:
        return Said(None, (), str(error))
    return Said(report, views)


def words_on(said: Said, lines: list[Line]) -> Iterator[Word]:
    """Yield a word on every group in every line, and on the verdict as a whole."""
    sure = [line for line in lines if not line.doubt]
    for line in lines:
        if line.doubt.startswith("rehearsal: "):
            yield Word("rehearsal", line.version, "differs from the real load", line.doubt)
        elif line.doubt:
            yield Word("no truth", line.version, plain(line.doubt), line.doubt)
    if said.report is None:
        healthy = sure and all(line.right() for line in sure)
        yield Word("refused", "", f"refused: {plain(said.error)}", said.error) if healthy else Word("right", "", "")
        return
    for error in said.report.errors:
        yield Word("own error", "", plain(error.message), error.message)
    for line in sure:
        yield from _outcomes(said, line)
        if said.report.status == "pass":
            yield from _passed(said, line, tied=bool(said.report.ties))
    for finding in said.report.findings:
        if finding.severity != "info" and finding.suppressed is None and sure:
            yield from _alarm(finding, sure)


def plain(text: str) -> str:
    """Return a text without what stands in it by name, so that it can be counted."""
    return re.sub(r"(NAME[, ]*)+", "NAME ", NAME.sub("NAME", text)).strip()[:160]


def _word(outcome: str) -> str:
    return outcome.rpartition("-")[2] if outcome.endswith(("-random", "-discarded")) else outcome


def _outcomes(said: Said, line: Line) -> Iterator[Word]:
    views = [v for v in said.views if (v.loader, v.versions) == ("transformers", line.version)]
    told = {frozenset(view.names): view for view in views}
    for names in {frozenset(group) for group in line.groups()} | told.keys():
        end, view = line.end(sorted(names)), told.get(names)
        if end.word == "absent":
            continue
        if view is None:
            over = [v for v in views if names < set(v.names)]
            if over or end.word == "kept-apart":
                continue
            view = None
        if view is None or view.outcome == "unknown":
            why = (view.message if view else None) or "the group is not in the report"
            yield Word("unknown", line.version, f"{plain(why)} [{'loss' if end.word in LOSSES else 'right'}]", why)
            continue
        ours, lost = _word(view.outcome), ", ".join(end.members)
        why = f"{sorted(names)[:4]}: {view.outcome}, and it is {end.word} {lost}"
        if ours != end.word:
            yield Word("outcome", line.version, f"{ours}, is {end.word}", why)
        elif ours == "random" and (line.rehearsal.embedding in end.members) != (view.outcome == "embedding-random"):
            known = view.outcome != "member-random" and line.rehearsal.embedding in names
            yield Word("outcome" if known else "right", line.version, f"{view.outcome}, is of another member", why)
        else:
            yield Word("right", line.version, "")


def _passed(said: Said, line: Line, *, tied: bool) -> Iterator[Word]:
    if line.rehearsal.raised:
        ours = "pass" if tied else "pass without a group"
        yield Word("pass", line.version, f"{ours}, and the load raises", ": ".join(line.rehearsal.raised))
        return
    groups = {frozenset(group) for group in line.groups()} | {frozenset(view.names) for view in said.views}
    for names in groups:
        end = line.end(sorted(names))
        if end.word in LOSSES:
            yield Word("pass", line.version, f"pass, and {end.word}", f"{sorted(names)[:4]}: {end.word} {end.members}")
            return


def _alarm(finding: Finding, sure: list[Line]) -> Iterator[Word]:
    hurts = finding.hurts
    if finding.code in OWN_GROUND and hurts is None:
        return
    named = [line for line in sure if hurts is None or f"transformers {line.version}" in hurts]
    if hurts is not None:
        named = [line for line in named if line.right()]
        for line in named:
            yield Word("alarm", line.version, finding.code, finding.message)
    elif named and all(line.right() for line in sure):
        yield Word("alarm", "", finding.code, finding.message)
