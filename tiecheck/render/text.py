"""The report for people: the verdict first, the evidence under it, the mend last. Made for 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from tiecheck.records.report import Finding, Report, TargetReport, TieEntry, Traffic
from tiecheck.records.words import HURTS, TIED
from tiecheck.render.lines import Line, write_lines
from tiecheck.render.reports import Style

GROUPS_SHOWN = 4
"""Tie groups listed for a target; some detection models have hundreds."""

TONES = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow", "error": "bold magenta"}
SEVERITY_TONES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


STORED = {
    "copy": "with equal bytes",
    "separate": "with different values",
    "storage": "sharing one storage",
    "unknown": "not compared",
}
"""Stored kind -> words for how the members compare."""


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the report as text."""
    write_lines(list(_lines(report, style)), style, stream)


def _lines(report: Report, style: Style) -> Iterator[Line]:
    for target in report.targets:
        if style.quiet and target.status == "pass" and not target.counted():
            continue
        yield from _target(target, style)
    if len(report.targets) > 1 and not style.quiet:
        yield Line("")
    yield from _summary(report, style)


def _target(target: TargetReport, style: Style) -> Iterator[Line]:
    of = f"  {target.architecture}" if target.architecture else ""
    whom = _for_whom(target)
    yield Line(f"{target.status:<7} {target.target}{of}{whom}", 0, 8, TONES[target.status], len(target.status))
    for message in (target.reason, *(error.message for error in target.errors)):
        if message:
            yield Line(message, 8, 0)
    yield from _groups(target, style)
    if target.placement is not None:
        from tiecheck.render.placement import placement_lines

        yield from placement_lines(target.placement, style)
    for finding in target.findings:
        yield from _finding(finding, style)
    if target.remote and style.verbose:
        moved = target.remote
        yield Line(traffic_text(moved), 8, 0, "dim")
    reasons: dict[str, list[str]] = {}
    for skip in target.skips:
        reasons.setdefault(skip.reason, []).append(skip.code)
    for reason, codes in reasons.items():
        yield Line(f"skipped {', '.join(codes)}: {reason}", 8, 2, "dim")


def _for_whom(target: TargetReport) -> str:
    """Tell which loaders a pass is not meant for: those that break the file all the same."""
    hurt = tuple(dict.fromkeys(entry.loader for entry in target.loaders if entry.outcome in HURTS))
    if target.status != "pass" or target.judged_for or not hurt:
        return ""
    return f": not in {', '.join(hurt)} (--for {','.join(hurt)})"


def traffic_text(moved: Traffic) -> str:
    """Tell what was moved to read a remote target."""
    return f"fetched {moved.bytes:,} bytes in {moved.requests:,} request{'' if moved.requests == 1 else 's'}"


def _groups(target: TargetReport, style: Style) -> Iterator[Line]:
    shown = len(target.ties) if style.verbose else GROUPS_SHOWN
    for tie in target.ties[:shown]:
        mark = " = " if tie.kind in TIED or (tie.kind is None and tie.declared) else ", "
        yield Line(f"{mark.join(tie.names[:4])}{more_names_text(tie)}", 8, 2)
        yield Line(_state(tie), 10, 0, "dim")
    rest = len(target.ties) - shown
    if rest > 0:
        yield Line(f"and {rest} more groups (-v shows them)", 8, 0, "dim")
    if not target.ties and target.rules_run:
        yield Line("no tie group", 8, 0, "dim")
    if style.verbose or any(entry.outcome in HURTS for entry in target.loaders):
        yield from _loaders(target)


def _loaders(target: TargetReport) -> Iterator[Line]:
    """Yield a line for each outcome with the loaders that have it, the costly ones first."""
    alike: dict[str, dict[str, int]] = {}
    outcomes: dict[str, set[str]] = {}
    for entry in target.loaders:
        outcomes.setdefault(entry.loader, set()).add(entry.outcome)
    for entry in target.loaders:
        versions = f" {entry.versions}" if len(outcomes[entry.loader]) > 1 else ""
        held = alike.setdefault(entry.outcome, {})
        held[entry.loader + versions] = held.get(entry.loader + versions, 0) + entry.groups
    groups = len(target.ties)
    for outcome in sorted(alike, key=lambda word: (word not in HURTS, word)):
        words = (f"{title} ({n} groups)" if groups > 1 and n > 1 else title for title, n in alike[outcome].items())
        yield Line(f"{outcome} in {', '.join(words)}", 8, 2, "dim")


def more_names_text(tie: TieEntry) -> str:
    """Tell how many names there are besides the four that are shown."""
    if tie.names_total is None:
        return " and endlessly many more (a cycle)"
    rest = tie.names_total - min(4, len(tie.names))
    return f" and {rest:,} more" if rest else ""


def _state(tie: TieEntry) -> str:
    """Describe one group in a line: kind, who declares it, how it is stored."""
    parts = []
    if tie.kind:
        meaning = "" if tie.kind in TIED or tie.kind_from != "live" else ", not tied"
        parts.append(f"{tie.kind} ({'live' if tie.kind_from == 'live' else 'as the class builds it'}){meaning}")
    if tie.declared is not None:
        by = f" by {tie.declared_by[0]}" if tie.declared_by else ""
        parts.append(f"declared {'tied' if tie.declared else 'untied'}{by}")
    if tie.stored == "absent" and tie.stored_names:
        parts.append(f"stored once, as {tie.stored_names[0]}")
    elif tie.stored == "absent":
        parts.append("no member stored under a name that is known")
    elif tie.stored:
        parts.append(f"stored {len(tie.stored_names)} times, {STORED.get(tie.stored, tie.stored)}")
    text = "; ".join(parts) or "nothing known"
    return f"{text} ({tie.reason})" if tie.reason else text


def _finding(finding: Finding, style: Style) -> Iterator[Line]:
    head = f"{finding.code} {finding.severity}"
    off = f" (suppressed: {finding.suppressed})" if finding.suppressed else ""
    yield Line(f"{head}: {finding.name}{off}", 4, 2, SEVERITY_TONES[finding.severity], len(head))
    yield Line(finding.message, 8, 0)
    for place in finding.locations:
        where = place.path
        if place.line is not None:
            where += f":{place.line}" + (f":{place.column}" if place.column is not None else "")
        yield Line(f"- {where}: {place.note}", 8, 2, "dim")
    if finding.confidence != "high" or style.verbose:
        yield Line(f"confidence: {finding.confidence}", 8, 0, "dim")
    yield from _mend(finding.help)


def _mend(text: str) -> Iterator[Line]:
    """Yield a mend, its code on lines of their own, which are not wrapped and can be copied."""
    for i, part in enumerate(f"mend: {text}".split("`")):
        if i % 2:
            yield from (Line(line, 14, 0, whole=True) for line in part.split("; "))
        elif words := part.removeprefix(".").strip():
            yield Line(words, 8 if i == 0 else 14, 6 if i == 0 else 0, "green", 5 if i == 0 else 0)


def codes_above_notes(report: Report) -> int:
    """Count the findings that are more than notes."""
    return report.tally("error") + report.tally("warning")


def _summary(report: Report, style: Style) -> Iterator[Line]:
    states = [t.status for t in report.targets]
    counts = ", ".join(f"{states.count(s)} {s}" for s in TONES if s in states)
    total = len(states)
    found = ", ".join(
        f"{n} {word if n == 1 else word + 's'}"
        for n, word in (
            (report.tally("error"), "error"),
            (report.tally("warning"), "warning"),
            (report.tally("info"), "note"),
        )
        if n
    )
    skips = len(report.skips)
    text = f"{total} target{'' if total == 1 else 's'}: {counts}. Findings: {found or 'none'}."
    if skips:
        text += f" {skips} rule{'' if skips == 1 else 's'} skipped."
    if style.strict and not codes_above_notes(report) and (skips or "unknown" in states):
        text += f" --strict: exit status 1 for what was {'skipped' if skips else 'not known'}."
    yield Line(f"{text} {report.seconds:.2f} s")
    codes = sorted({f.code for f in report.findings})
    if codes:
        yield Line(f"`tiecheck rule {codes[0]}` explains a rule.", 0, 0, "dim")
