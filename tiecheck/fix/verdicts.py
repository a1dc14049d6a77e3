"""The end of a target by a fix: findings that it did not end or that it brought, and what a load makes of it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from tiecheck.config.options import Config
from tiecheck.records.edits import Edit
from tiecheck.records.loaders import Rehearsal
from tiecheck.records.record import Record
from tiecheck.records.report import SEVERITIES, Finding, TargetReport, at_least
from tiecheck.wording import listed

HIDING = {"TIE112", "TIE205", "TIE206", "TIE207"}
"""Findings for which a load fails as a whole, so that nothing else is told until they are gone."""

TITLE = "transformers "

Chosen = tuple[tuple[Finding, Edit], ...]
"""Findings that were to be ended, each with the alternative taken."""


class Verdict(Record):
    """The state of the fixed files."""

    worse: tuple[str, ...]
    """Reasons against the fix."""
    left: tuple[tuple[Finding, str], ...]
    """Findings that stay or came, and do not count against it, each with the reason."""


class Heard(Record):
    """Word of transformers on the files, before and after."""

    by: str | None = None
    """The version that was heard, or the reason why none was; None where none was asked."""
    worse: tuple[str, ...] = ()
    """Reasons against the fix."""
    stays: tuple[str, ...] = ()
    """Wrongs of the load that were there before, and are."""

    @property
    def sound(self) -> bool:
        """True where a load was heard, and nothing is wrong with it."""
        return (self.by or "").startswith(TITLE) and not self.stays


def hold_against(chosen: Chosen, before: TargetReport, after: TargetReport, config: Config) -> Verdict:
    """Hold the findings on fixed files against those on the old ones."""
    if after.errors:
        return Verdict((after.errors[0].message,), ())
    ended = {(finding.code, finding.names) for finding, _ in chosen}
    known = {(finding.code, finding.names) for finding in before.findings} - ended
    steps = (step for _, edit in chosen for step in edit.steps if step.kind == "rename-tensor")
    renamed = {old: new for old, new in (step.names for step in steps)}  # noqa: C416  # two names each
    known |= {(code, tuple(sorted(renamed.get(name, name) for name in names))) for code, names in known}
    others = [one for one in before.findings if one not in [of for of, _ in chosen]]
    untouched = {(one.code, one.names, one.message) for one in others}
    worse: list[str] = []
    left: list[tuple[Finding, str]] = []
    for finding in after.counted():
        same = (finding.code, finding.names)
        if same in known or (*same, finding.message) in untouched:
            continue
        if not (same in ended or at_least((finding,), config.fail_on)):
            continue
        reason = _why_it_stays(finding, chosen, before)
        if reason is not None:
            left.append((finding, reason))
        else:
            worse.append(f"{finding.code} would {'still be there' if same in ended else 'come'}: {finding.message}")
    return Verdict(tuple(worse), tuple(left))


def _why_it_stays(finding: Finding, chosen: Chosen, before: TargetReport) -> str | None:
    """Return why a finding on the fixed files does not count against the fix; None where it does.

    It is less grave than the one on the same names was, or another had hidden it, or it says what was chosen.
    """
    rank = {one.names: SEVERITIES.index(one.severity) for one, _ in chosen}
    hiding = sorted({one.code for one, edit in chosen if one.code in HIDING or edit.steps[0].kind == "strip-prefix"})
    told = {(one.code, one.names, one.message) for one in before.findings}
    if SEVERITIES.index(finding.severity) < rank.get(finding.names, 0):
        what = "a note" if finding.severity == "info" else f"a {finding.severity}"
        return f"it is {what} now{f', and hurts {listed(finding.hurts)}' if finding.hurts else ''}"
    ended = {(one.code, one.names) for one, _ in chosen}
    if hiding and (
        (finding.code, finding.names) not in ended
        or (finding.code in HIDING and (finding.code, finding.names, finding.message) not in told)
    ):
        return f"{hiding[0]} hid it, and a fix of it is another step: {finding.message}"
    copies = {step.names[1] for _, edit in chosen for step in edit.steps if step.kind == "copy-tensor"}
    if finding.code == "TIE109" and copies & set(finding.names):
        return "the same flag ties both, and untied each is stored: trained on, they part"
    return None


def hear_loads(root: str, stage: str, chosen: Chosen) -> Heard:
    """Rehearse the load of the old and the new files in another process."""
    if not all(find_spec(name) for name in ("torch", "transformers")):
        return Heard("transformers is not installed")
    from tiecheck.live.rehearsal import Rehearser

    with Rehearser(sys.executable) as other:
        new = other.rehearse(stage)
        if new.unsure is not None:
            return Heard(new.unsure)
        was = other.rehearse(root)
    names = {name for finding, _ in chosen for name in finding.names}
    title = f"{TITLE}{new.version}"
    return Heard(title, _lost(was, new, names), _still_wrong(title, was, new))


def _lost(was: Rehearsal, new: Rehearsal, names: set[str]) -> tuple[str, ...]:
    """Return what a load of the new files loses and one of the old did not."""
    if new.raised is not None:
        nothing_lost = was.raised is not None or not any(held.state == "loaded" for held in was.held)
        return () if nothing_lost else (f"transformers would raise {': '.join(new.raised)}",)
    known = set() if was.raised is not None or was.unsure is not None else set(was.random) - names
    random = sorted(set(new.random) - known) if was.raised is None else sorted(set(new.random) & names)
    thrown = sorted({d.name for d in new.dropped if not d.equal} - {d.name for d in was.dropped})
    return (
        *(f"transformers would make {name} at random" for name in random),
        *(f"transformers would throw {name} away" for name in thrown),
    )


def _still_wrong(title: str, was: Rehearsal, new: Rehearsal) -> tuple[str, ...]:
    """Return what a load that did not get worse still has against it."""
    if new.raised is not None:
        before = "as before" if was.raised is not None else "and loaded nothing before"
        return (f"{title} raises, {before}: {': '.join(new.raised)}",)
    told = (("makes {} at random, since nothing is stored for it", new.random), ("has no use for {}", new.unexpected))
    return tuple(f"{title} {words.format(_some(names))}" for words, names in told if names)


def _some(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more"
