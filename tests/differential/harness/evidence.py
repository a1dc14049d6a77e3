"""The page of a run: counts by kind, every kind of wrong verdict with the line that replays it, unknowns by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness.cases import Case
from harness.collect import Judged, Kind, Run, change_of

REASONS = 25
"""Reasons of unknowns that are listed."""


def page(run: Run, asked: dict[str, Any]) -> str:
    """Return the evidence of a run as Markdown."""
    healthy = [one for one in run.judged if one.healthy]
    broken = [one for one in run.judged if not one.healthy]
    options = " ".join(f"--{key} {asked[key]}" for key in ("directories", "classes", "seed"))
    options += " --untouched" * asked.get("untouched", False)
    if asked.get("minutes", float("inf")) < float("inf"):
        options += f" --minutes {asked['minutes']:g}"
    statuses = Counter(one.status for one in run.judged)
    words = Counter((word.kind, word.line) for one in run.judged for word in one.words)
    lines = ["# Drawn directories against transformers", ""]
    lines += [f"`python tests/differential/run.py {options}{' --older PYTHON' if asked['older'] else ''}`", ""]
    lines += [
        f"{len(run.judged)} directories of {run.classes} classes in {run.seconds:.0f} s; {len(healthy)} load exactly."
    ]
    lines += [f"{run.real_loads} were loaded for real as well as rehearsed."]
    lines += ["Status: " + ", ".join(f"{count} {status}" for status, count in statuses.most_common()) + ".", ""]
    lines += ["| word on a group or a directory | line | count |", "|---|---|---|"]
    lines += [f"| {kind} | {line or 'both'} | {count} |" for (kind, line), count in sorted(words.items())]
    lines += ["", "## Wrong, by kind", ""]
    for (end, changes), kinds in families(run):
        lines += _wrong(f"{end} [{changes}]", kinds)
    lines += [f"- {count} {what} (not shrunk)" for what, count in run.unshrunk.most_common()]
    lines += [*_unknown("both load right", healthy), *_unknown("something is lost", broken)]
    blind = Counter((word.line, word.what) for one in run.judged for word in one.words if word.kind == "no truth")
    lines += ["", f"## Lines of which the rehearsal does not tell: {blind.total()}", ""]
    lines += [f"- {count} ({line}) {what}" for (line, what), count in blind.most_common(REASONS)]
    return "\n".join(lines) + "\n"


Found = list[tuple[Kind, list[Case]]]


def families(run: Run) -> list[tuple[tuple[str, str], Found]]:
    """Return the kinds of wrong verdicts by what really happens and by what was changed, the commonest first."""
    found: dict[tuple[str, str], Found] = {}
    for kind, those in run.kinds:
        end = "alarm" if kind.kind == "alarm" else kind.what.rpartition(" is ")[2].rpartition(" the load ")[2]
        end = end.rpartition("and ")[2].replace("crash", "raises")
        found.setdefault((end, " + ".join(sorted(kind.changes)) or "untouched"), []).append((kind, those))
    return sorted(found.items(), key=lambda item: -_directories(item[1]))


def _directories(kinds: Found) -> int:
    return len({repr(case) for _, those in kinds for case in those})


def _wrong(title: str, kinds: Found) -> list[str]:
    said = ", ".join(f"{kind.kind} {kind.line} {kind.what} ({len(those)})" for kind, those in kinds)
    first = min((kind for kind, _ in kinds), key=lambda kind: len(repr(kind.case)))
    last = [f"  {text[:300]}" for text in first.why.strip().splitlines()[-1:]]
    return [f"- **{_directories(kinds)}** {title}: {said}", f"  `{first.case!r}`", *last]


def _unknown(title: str, some: list[Judged]) -> Iterator[str]:
    reasons = Counter((w.line, w.what) for one in some for w in one.words if w.kind == "unknown")
    groups = sum(word.kind in ("right", "unknown", "outcome") for one in some for word in one.words)
    yield from ("", f"## Unknown where {title}: {reasons.total()} of {groups} groups", "")
    yield from (f"- {count} ({line}) {what}" for (line, what), count in reasons.most_common(REASONS))
    dark = [one for one in some if one.status == "unknown"]
    by_change = Counter(change_of(c).partition("(")[0] for one in dark for c in one.case.mutations or ["untouched"])
    told = ", ".join(f"{count} {name}" for name, count in by_change.most_common())
    yield from ("", f"Status unknown: {len(dark)} of {len(some)} directories; by mutator: {told or 'none'}.")
