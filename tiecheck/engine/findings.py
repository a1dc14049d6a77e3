"""One rule over the facts: its findings, each with what all of its rule share, or its skip, or its crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tiecheck.engine.status import JUDGED, RuleAnswers
from tiecheck.errors import shown
from tiecheck.facts.registry import Facts
from tiecheck.records.edits import CONFIG, NO_MEND, Edit, edit_words, fitting_edits
from tiecheck.records.report import Error, Finding, Skip, finding_fingerprint
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from tiecheck.rules.base import Draft, Rule


def finding_of(
    rule: type[Rule],
    draft: Draft,
    target: Target,
    chosen: frozenset[tuple[str, str]] | None,
    edits: tuple[Edit, ...] = (),
) -> Finding:
    """Return the finding of a draft, with the edits that fit the config and the severity for the chosen loaders."""
    names = tuple(sorted(draft.names))
    severity = draft.severity or rule.severity
    if target.type == "checkpoint" and rule.code.startswith("TIE8"):
        severity = "info"  # the class of a model's own file may never be used
    if draft.hurts and not any(view.among(chosen) for view in draft.hurts):
        severity = "info"
    elif chosen is not None and draft.hurts is not None:  # a note that hurts a loader which matters is none
        severity = "info" if not draft.hurts else "warning" if severity == "info" else severity
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
        fingerprint=finding_fingerprint(rule.code, relative_target(target.text), names),
        suppressed=None,
        hurts=tuple(dict.fromkeys(view.title for view in draft.hurts)) if draft.hurts is not None else None,
        edits=edits,
    )


def finding_of_target(finding: Finding, target: str) -> Finding:
    """Return a finding as that of another target that is alike."""
    return finding._replace(fingerprint=finding_fingerprint(finding.code, relative_target(target), finding.names))


def _why_none(draft: Draft) -> str:
    """Tell why no change of the files mends it; empty where nothing was said about files."""
    said = "config.json has no place for the flag that is read." if draft.edits else draft.no_mend
    return f"{NO_MEND} {said}" if said else ""


def relative_target(text: str) -> str:
    """Return a target's name relative to the working directory, so that it means the same in another clone.

    However the path was spelt it is one name; an absolute one where the two have no folder in common.
    """
    if not os.path.exists(text):
        return text
    try:
        path, here = os.path.abspath(text), os.getcwd()
        shared = os.path.commonpath((path, here))
    except (OSError, ValueError):  # the working directory is gone, or on another drive
        return text
    return path if shared != here and os.path.dirname(shared) == shared else os.path.relpath(path, here)


def apply_rule(
    rule: type[Rule], facts: Facts, target: Target, outcome: RuleAnswers, chosen: frozenset[tuple[str, str]] | None
) -> None:
    """Run one rule: its findings, or its skip, or the error that it crashed."""
    values = {need: facts.get(need) for need in rule.needs}
    unknown = next((value for value in values.values() if isinstance(value, Unknown)), None)
    if unknown is not None:
        outcome.skips.append(Skip(rule.code, rule.name, shown(unknown.reason)))
        return
    try:
        answers = list(rule().check(**values))
    except Exception as error:  # noqa: BLE001  # any crash of a rule is reported as that rule's
        outcome.errors.append(Error(rule.code, f"{rule.code} crashed: {type(error).__name__}: {error}", None))
        return
    reasons = dict.fromkeys(answer.reason for answer in answers if isinstance(answer, Unknown))
    outcome.skips.extend(Skip(rule.code, rule.name, shown(reason)) for reason in reasons)
    drafts = (answer for answer in answers if not isinstance(answer, Unknown))
    model = facts.known("model_config")
    data = model.data if model and model.path == CONFIG else None
    outcome.findings.extend(
        finding_of(rule, draft, target, chosen, fitting_edits(draft.edits, data) if draft.edits else ())
        for draft in drafts
    )
    if not reasons and not (target.type == "checkpoint" and rule.code.startswith("TIE8")):
        outcome.ran.append(rule.code)  # a look at a model's own source is no look at the model
    elif rule.severity == "error" and values.keys() & JUDGED:
        outcome.unclear.append(rule.code)
