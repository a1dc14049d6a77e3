"""Findings: a rule's draft with what all of its rule share, and those that a comment in a source takes back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tiecheck.records.edits import NO_MEND, Edit, edit_words
from tiecheck.records.report import Finding, finding_fingerprint
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from tiecheck.records.source import SourceFile
    from tiecheck.rules.base import Draft, Rule


def finding_of(
    rule: type[Rule],
    draft: Draft,
    target: Target,
    chosen: frozenset[tuple[str, str]] | None,
    edits: tuple[Edit, ...] = (),
) -> Finding:
    """Return the finding of a rule's draft: with what all of its rule share, and the severity for the chosen loaders.

    Args:
        rule: The rule.
        draft: What it found.
        target: Where.
        chosen: The loaders that matter, None for all.
        edits: The draft's edits that fit the config.
    """
    names = tuple(sorted(draft.names))
    severity = draft.severity or rule.severity
    if target.type == "checkpoint" and rule.code.startswith("TIE8"):
        severity = "info"  # the class of a model's own file may never be used
    if chosen is not None and draft.hurts is not None:  # a note that hurts a loader which matters is none
        meant = any((view.loader, view.versions) in chosen for view in draft.hurts)
        severity = "info" if not meant else "warning" if severity == "info" else severity
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=severity,
        confidence=draft.confidence or rule.confidence,
        message=draft.message,
        names=names,
        help=" ".join(filter(None, (edit_words(edits) or _why_none(draft), draft.help))),
        fixable=any(edit.safe for edit in edits),
        locations=draft.locations,
        fingerprint=finding_fingerprint(rule.code, _relative(target.text), names),
        suppressed=None,
        hurts=tuple(dict.fromkeys(view.title for view in draft.hurts)) if draft.hurts is not None else None,
        edits=edits,
    )


def finding_of_target(finding: Finding, target: str) -> Finding:
    """Return a finding as that of another target that is alike."""
    return finding._replace(fingerprint=finding_fingerprint(finding.code, _relative(target), finding.names))


def _why_none(draft: Draft) -> str:
    """Tell why no change of the files mends it; empty where nothing was said about files."""
    said = "config.json has no place for the flag that is read." if draft.edits else draft.no_mend
    return f"{NO_MEND} {said}" if said else ""


def _relative(text: str) -> str:
    """Return a target's name relative to the working directory that it lies in, so that it means the same anywhere."""
    if not os.path.exists(text):
        return text
    path = os.path.relpath(text)
    return text if path.startswith("..") else path


def suppress_findings(findings: Iterable[Finding], sources: tuple[SourceFile, ...]) -> Iterator[Finding]:
    """Yield findings, marked as suppressed where a comment on their line, or one for the whole file, names them.

    The comment is `# tiecheck: ignore[TIE802] reason`, or `# tiecheck: ignore-file[TIE8]`; without codes it is for all.
    """
    ignores = {file.path: file.ignores for file in sources}
    for finding in findings:
        place = finding.locations[0]
        for line, codes in ignores.get(place.path, ()):
            if line in (0, place.line) and (not codes or finding.code.startswith(codes)):
                where = f"line {line}" if line else "the file"
                finding = finding._replace(suppressed=f"tiecheck: ignore on {where}")  # noqa: PLW2901
                break
        yield finding
