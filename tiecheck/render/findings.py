"""One finding for people: what is wrong, whom it hurts, where it stands, and the fix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from tiecheck.records.edits import NO_MEND, edit_words
from tiecheck.records.loaders import LoaderOutcome
from tiecheck.records.report import Finding, Location, TargetReport
from tiecheck.records.words import HURTS, Outcome
from tiecheck.render.lines import SEVERITY_TONES, Line
from tiecheck.render.reports import Detail

SENTENCE = re.compile(r"(?<=[^.])\. (?=\S)(?![^(]*\))")
"""The end of a sentence; three dots are none, and what stands in brackets belongs to its own."""

LABEL = 6
"""Columns of the word before each part of a finding."""

LOST: dict[Outcome, str] = {
    "head-discarded": "stored head thrown away",
    "member-discarded": "stored values thrown away",
    "head-random": "random head",
    "embedding-random": "random embedding",
    "member-random": "random values",
    "crash": "crash",
}
"""Outcome that hurts -> the words for it."""


def finding_lines(finding: Finding, target: TargetReport, detail: Detail) -> Iterator[Line]:
    """Yield one finding, wrapped."""
    head = f"{finding.code} {finding.severity}"
    verbose = detail == "all"
    if detail == "name":
        yield Line(f"{head}: {finding.name}", 2, 2, SEVERITY_TONES[finding.severity], len(head))
        return
    whom = whom_text(finding, target) if detail == "most" else ""
    name = f": {finding.name}{f' (suppressed: {finding.suppressed})' if finding.suppressed else ''}" if verbose else ""
    told = {title.partition(" ")[0] for title in finding.hurts or ()} if whom else set()
    told |= {entry.loader for entry in target.loaders} if whom else set()
    text = finding.message if verbose else _short(finding.message, told, brief=detail != "most")
    if verbose or (finding.confidence != "high" and detail == "most"):
        text += f" Confidence: {finding.confidence}."
    yield Line(f"{head}{name}: {text}", 2, 2, SEVERITY_TONES[finding.severity], len(head))
    if detail in ("all", "most"):
        if whom:
            yield _labelled("hurts", whom)
        yield from _places(finding)
    if detail != "least":
        yield from fix_lines(finding, target, brief=detail == "fix")


def _labelled(label: str, text: str, tone: str = "dim") -> Line:
    return Line(f"{label:<{LABEL}}{text}", 4, LABEL, tone, None if tone == "dim" else len(label))


def _short(message: str, told: set[str], *, brief: bool) -> str:
    """Return the first sentence of a message, and those after it that say nothing of loaders which are told anyhow."""
    first, *others = SENTENCE.split(message)
    kept = [] if brief else [text for text in others if not any(loader in text for loader in told)]
    text = ". ".join([first, *kept])
    return text if text.endswith(".") else f"{text}."


def whom_text(finding: Finding, target: TargetReport) -> str:
    """Tell whom a finding hurts and how, the loaders of `--for` first, then those that it does not; empty for all."""
    if not finding.hurts:
        return ""
    mine = {word.partition("=")[0] for word in target.judged_for or ()}
    entries = [entry for entry in target.loaders if set(entry.names) & set(finding.names)]
    hurt = [entry for entry in entries if _title(entry) in finding.hurts and entry.outcome in HURTS]
    others = [title for title in finding.hurts if title not in map(_title, hurt)]
    if not hurt or (others and not mine):
        return ", ".join(sorted(finding.hurts, key=lambda title: bool(mine) and title.split(" ")[0] not in mine))
    ends = {(entry.loader, lost_words(entry) if entry.outcome in HURTS else None) for entry in entries}
    several = {loader for loader, count in Counter(loader for loader, _ in ends).items() if count > 1}
    ways: dict[str, list[str]] = {}
    for entry in sorted(hurt, key=lambda entry: bool(mine) and entry.loader not in mine):
        title = _title(entry) if entry.loader in several else entry.loader
        ways.setdefault(lost_words(entry), []).append(title)
    text = "; ".join(f"{', '.join(dict.fromkeys(whom))} ({way})" for way, whom in ways.items())
    if others:
        text += f"; also {_first(others)}"
    fine = [_title(entry) for entry in entries if entry.outcome not in {*HURTS, "unknown"}]
    fine = [title for title in dict.fromkeys(fine) if title not in finding.hurts]
    return f"{text}; not {_first(fine)}" if fine else text


def lost_words(entry: LoaderOutcome) -> str:
    """Tell what becomes of a group in a loader that it hurts; a load that ends well may leave it without values."""
    return "left on meta" if "meta device" in (entry.message or "") else LOST[entry.outcome]


def _first(titles: list[str]) -> str:
    return f"{', '.join(titles[:2])} and {len(titles) - 2} more" if len(titles) > 3 else ", ".join(titles)


def _title(entry: LoaderOutcome) -> str:
    return f"{entry.loader} {entry.versions}" if entry.versions else entry.loader


def place_text(place: Location) -> str:
    """Return a place as an editor or a terminal takes it: path, line and column."""
    if place.line is None:
        return place.path
    return f"{place.path}:{place.line}" + (f":{place.column}" if place.column is not None else "")


def note_text(place: Location, finding: Finding) -> str:
    """Return the note of a place; nothing where the message of its finding has said it word for word."""
    return "" if place.note in finding.message else place.note


def _places(finding: Finding) -> Iterator[Line]:
    """Yield the evidence, what stands in one place together."""
    noted: dict[str, list[str]] = {}
    for place in finding.locations:
        noted.setdefault(place_text(place), []).extend(filter(None, [note_text(place, finding)]))
    for i, (where, notes) in enumerate(noted.items()):
        yield _labelled("" if i else "at", f"{where}: {'; '.join(notes)}" if notes else where)


def fix_lines(finding: Finding, target: TargetReport, *, brief: bool) -> Iterator[Line]:
    """Yield a fix, its code on lines of their own, which are not wrapped and can be copied."""
    if brief and any(edit.when is not None for edit in finding.edits):
        yield _labelled("fix", f"tiecheck fix {target.target}", "green")
        return
    for n, said in enumerate(fix_texts(finding)):
        for i, part in enumerate(said.split("`")):
            if i % 2:
                yield from (Line(line, 4 + LABEL, 0, whole=True) for line in part.split("; "))
            elif words := part.removeprefix(".").strip():
                yield Line(words, 4 + LABEL) if i or n else _labelled("fix", words, "green")


def fix_sentence(finding: Finding) -> str:
    """Return a fix as one text with its label."""
    return finding.help if finding.help.startswith(NO_MEND) else f"Fix: {finding.help}"


def fix_texts(finding: Finding) -> list[str]:
    """Return a fix in words, each alternative by itself where the decision is the reader's."""
    ways = [edit_words((edit,)) for edit in finding.edits]
    if len(ways) > 1 and finding.help.startswith(" ".join(ways)):
        return list(filter(None, (*ways, finding.help[len(" ".join(ways)) :].strip())))
    return [finding.help.replace(NO_MEND, "none:", 1) if finding.help.startswith(NO_MEND) else finding.help]
