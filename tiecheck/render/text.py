"""The report for people: a line for what passes; for what does not, what is wrong, whom it hurts, where, and the fix.

Groups, loaders, notes, skips and what is suppressed stand under `-v`. A finding is shorter where many targets would
take more than a screen.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TextIO

from tiecheck.records.report import SEVERITIES, Report, TargetReport, TieEntry, Traffic
from tiecheck.records.words import HURTS, TIED
from tiecheck.render.lines import WIDTH, Line, page_width, wrapped, write_lines
from tiecheck.render.reports import Detail, Style
from tiecheck.wording import counted, listed

GROUPS_SHOWN = 4
"""Tie groups whose state is summed up one by one; some detection models have hundreds."""

MANY = 4
"""Targets from which on the findings become shorter where the report is longer than `SCREEN`."""

SCREEN = 60
"""Lines of a report of many targets."""

HINTS: dict[Detail, str] = {
    "all": "",
    "most": ", -v shows more",
    "fix": "; check one target alone to see all of it",
    "least": ", `tiecheck fix TARGET` shows the fix; check one target alone to see all of it",
    "name": "; check one target alone to see what is wrong and the fix",
}
"""Detail of a report -> how to see what it leaves out."""

TONES = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow", "error": "bold magenta"}

STORED = {
    "copy": "with equal bytes",
    "separate": "with different values",
    "storage": "sharing one storage",
    "unknown": "not compared",
}
"""Stored kind -> words for how the members compare."""


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the report as text."""
    details: tuple[Detail, ...] = ("all",) if style.verbose else ("most",)
    if len(report.targets) >= MANY and not style.verbose:
        details = ("most", "fix", "least")
    if not (style.quiet or style.verbose) and len(report.targets) > SCREEN:
        details = ("least",)  # a line each is too much
    width = page_width(stream)
    if len(details) > 1 and width < WIDTH:
        details = (*details, "name", "least")  # what fits in no form keeps its sentences
    for detail in details:
        lines = list(_lines(report, style, detail))
        if len(details) == 1 or sum(len(wrapped(line, width)) for line in lines) <= SCREEN:
            break
    write_lines(lines, style, stream)


def report_text(report: Report, *, verbose: bool = False) -> str:
    """Return the report as the command line writes it without colours: what `print(report)` shows."""
    stream = io.StringIO()
    render(report, Style(verbose=verbose, color="never"), stream)
    return stream.getvalue().rstrip()


def _lines(report: Report, style: Style, detail: Detail) -> Iterator[Line]:
    marks = _shared_reasons(report) if not style.verbose else {}
    folder = common_folder(report)
    if folder:
        yield Line(f"In {folder}:", 0, 0)
    for target in report.targets:
        if style.quiet and target.status == "pass" and not _shown(target):
            continue
        yield from _target(target, style, detail, marks, len(folder))
    for reason, mark in marks.items():
        yield Line(f"{mark} unknown: {reason}", 0, len(mark) + 1)
    yield from _summary(report, style, detail)


def _shared_reasons(report: Report) -> dict[str, str]:
    """Return the reasons that several targets are unknown for, each with the mark that stands for it."""
    told = Counter(_why(target) for target in report.targets if target.reason)
    return {why: f"[{i}]" for i, why in enumerate((why for why, n in told.items() if n > 1), 1)}


def _why(target: TargetReport) -> str:
    """Return why a target is unknown, without the names that it is about; with the loaders that were asked for."""
    why, _, about = (target.reason or "").partition("; so it is not known")
    return f"{why} (in {about.rpartition(' in ')[2]})" if about and target.judged_for else why


def _shown(target: TargetReport) -> bool:
    return any(finding.severity != "info" for finding in target.counted())


def common_folder(report: Report) -> str:
    """Return the folder, with its separator, that many absolute targets lie in: named once, left out of each.

    Empty where they are few, or share no folder.
    """
    names = [target.target for target in report.targets]
    if len(names) < MANY or not all(os.path.isabs(name) for name in names):
        return ""
    try:
        shared = os.path.join(os.path.commonpath([os.path.dirname(name) for name in names]), "")
    except ValueError:  # on several drives
        return ""
    return shared if shared != os.sep and all(name.startswith(shared) for name in names) else ""


def _target(target: TargetReport, style: Style, detail: Detail, marks: Mapping[str, str], known: int) -> Iterator[Line]:
    mark = marks.get(_why(target), "") if target.reason else ""
    notes = sorted({f.code for f in target.counted() if f.severity == "info"})
    open_notes = style.verbose or (target.status == "fail" and not _shown(target))
    noted = f"note: {', '.join(notes)}" if notes and not open_notes else ""
    off = len(target.findings) - len(target.counted())
    whom = f"{off} suppressed" if off else _for_whom(target)
    architecture = "" if detail == "name" else target.architecture
    ties = ties_text(target) if target.status == "pass" and not style.verbose else ""
    whole = not target.ties or target.type == "source"
    tail = "  ".join(filter(None, (architecture, ties if whole else "", mark, whom, noted)))
    extra = f"  {ties}" if ties and not whole else ""
    head = f"{target.status:<7} {target.target[known:]}"
    yield Line(f"{head}  {tail}" if tail else head, 0, 8, TONES[target.status], len(target.status), extra=extra)
    for message in ("" if mark else target.reason, *(error.message for error in target.errors)):
        if message:
            yield Line(message, 8, 0)
    if style.verbose:
        yield from _groups(target)
    if target.placement is not None:
        from tiecheck.render.placement import placement_lines

        yield from placement_lines(target.placement, style)
    for finding in target.findings if style.verbose else target.counted():
        if finding.severity != "info" or open_notes:
            from tiecheck.render.findings import finding_lines  # a report without findings does not pay for them

            yield from finding_lines(finding, target, detail)
    if target.remote and style.verbose:
        yield Line(traffic_text(target.remote), 8, 0, "dim")
    if style.verbose or style.strict:
        yield from _skips(target)


def _skips(target: TargetReport) -> Iterator[Line]:
    """Yield the rules that could not judge, those with one reason together, the reason first."""
    reasons: dict[str, list[str]] = {}
    for skip in target.skips:
        reasons.setdefault(skip.reason, []).append(skip.code)
    for reason, codes in reasons.items():
        yield Line(f"skipped: {reason} ({listed(tuple(codes))})", 8, 2, "dim")


def _for_whom(target: TargetReport) -> str:
    """Tell which loaders a pass is not meant for: those that break the file."""
    hurt = [entry for entry in target.loaders if entry.outcome in HURTS]
    if target.status != "pass" or not hurt:
        return ""
    fine = {entry.loader for entry in target.loaders if entry.outcome not in HURTS}  # in other versions
    named = {f"{e.loader} {e.versions}" if e.loader in fine else e.loader: e for e in hurt}
    asked = ",".join(
        f"{e.loader}=={e.versions.partition('-')[0]}" if e.loader in fine else e.loader for e in named.values()
    )
    return f"not in {', '.join(named)} (--for {asked})"


def traffic_text(moved: Traffic) -> str:
    """Tell what was moved to read a remote target."""
    return f"fetched {moved.bytes:,} bytes in {counted(moved.requests, 'request')}"


def ties_text(target: TargetReport) -> str:
    """Sum up the tie groups: how many, and how many of them are tied."""
    words = Counter(_word(tie) for tie in target.ties)
    if target.type == "source":
        seen = [" = ".join(tie.names) for tie in target.ties[:1]]
        more = f" and {len(target.ties) - 1:,} more" if len(target.ties) > 1 else ""
        return f"{': '.join(('no tie is broken in it', *seen))}{more}"
    if len(target.ties) == 1:
        (tie,) = target.ties
        many = "endless" if tie.names_total is None else tie.names_total
        return f"1 group of {many}, {_word(tie)}"
    states = ", ".join(f"{n} {word}" if len(words) > 1 else word for word, n in words.items())
    return f"{len(target.ties)} groups, {states}" if target.ties else "no tie to judge"


def _word(tie: TieEntry) -> str:
    if tie.kind_from == "live" and tie.kind is not None:
        return "tied" if tie.kind in TIED else "not tied"
    if tie.declared and tie.stored == "separate":
        return "declared tied, stored apart"
    return {True: "tied", False: "not tied", None: "undeclared"}[tie.declared]


def _groups(target: TargetReport) -> Iterator[Line]:
    for tie in target.ties:
        mark = " = " if tie.kind in TIED or (tie.kind is None and tie.declared) else ", "
        yield Line(f"{mark.join(tie.names[:4])}{more_names_text(tie)}", 8, 2)
        yield Line(_state(tie), 10, 0, "dim")
    if not target.ties and target.rules_run:
        yield Line("no tie to judge", 8, 0, "dim")
    yield from _loaders(target)


def _loaders(target: TargetReport) -> Iterator[Line]:
    """Yield a line for each outcome with the loaders that have it, the costly first; groups named that differ."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    outcomes: dict[str, set[str]] = {}
    several = Counter((entry.loader, entry.versions) for entry in target.loaders)
    for entry in target.loaders:
        outcomes.setdefault(entry.loader, set()).add(entry.outcome)
    for entry in target.loaders:
        versions = f" {entry.versions}" if len(outcomes[entry.loader]) > 1 else ""
        names = entry.names if several[entry.loader, entry.versions] > 1 else ()
        way = "left on meta" if "meta device" in (entry.message or "") else entry.outcome
        alike.setdefault((way, names), []).append(entry.loader + versions)
    for outcome, names in sorted(alike, key=lambda key: (key[0] not in {*HURTS, "left on meta"}, key)):
        whom = ", ".join(dict.fromkeys(alike[outcome, names]))
        of = f": {', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}" if names else ""
        yield Line(f"{outcome} in {whom}{of}", 8, 2, "dim")


def more_names_text(tie: TieEntry) -> str:
    """Tell how many names there are besides the four that are shown."""
    if tie.names_total is None:
        return " and endlessly many more (a cycle)"
    rest = tie.names_total - min(4, len(tie.names))
    return f" and {rest:,} more" if rest else ""


def times(number: int) -> str:
    """Return a number of times in words: once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


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
        parts.append(f"stored {times(len(tie.stored_names))}, {STORED.get(tie.stored, tie.stored)}")
    text = "; ".join(parts) or "nothing known"
    return f"{text} ({tie.reason})" if tie.reason else text


def codes_above_notes(report: Report) -> int:
    """Count the findings that are more than notes."""
    return report.tally("error") + report.tally("warning")


def found_text(report: Report) -> str:
    """Count the findings by severity: `6 errors, 1 note`; `none` where there are none."""
    counts = ((report.tally(severity), {"info": "note"}.get(severity, severity)) for severity in reversed(SEVERITIES))
    return ", ".join(counted(n, word) for n, word in counts if n) or "none"


def summary_text(report: Report) -> str:
    """Count targets, findings, what is suppressed, and skips: the same numbers in every format."""
    states = [t.status for t in report.targets]
    counts = ", ".join(f"{states.count(s)} {s}" for s in TONES if s in states)
    total, skips = len(states), len(report.skips)
    suppressed = sum(f.suppressed is not None for t in report.targets for f in t.findings)
    text = f"{counted(total, 'target')}: {counts}. Findings: {found_text(report)}"
    text += f"; {suppressed} suppressed." if suppressed else "."
    text += " Only ties were judged." if "pass" in states else ""
    return f"{text} {counted(skips, 'rule')} skipped." if skips else text


def _summary(report: Report, style: Style, detail: Detail) -> Iterator[Line]:
    text = summary_text(report)
    blind = any(target.status == "unknown" for target in report.targets)
    if style.strict and not codes_above_notes(report) and (report.skips or blind):
        text += f" --strict: exit status 1 for what was {'skipped' if report.skips else 'not known'}."
    yield Line(f"{text} {report.seconds:.2f} s")
    codes = sorted({f.code for f in report.findings})
    if codes:
        yield Line(f"`tiecheck rule {codes[0]}` explains a rule{HINTS[detail]}.", 0, 0, "dim")
