"""Findings that are taken back, by comments, a baseline and the configuration file; and what takes nothing back."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.engine.findings import apply_rule, relative_target
from tiecheck.engine.status import RuleAnswers
from tiecheck.errors import UsageError
from tiecheck.facts.registry import Facts
from tiecheck.records.report import Finding, Report, at_least
from tiecheck.records.suppressions import Accepted, Allowance, Unused
from tiecheck.rules.registry import select_rules
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from tiecheck.records.source import SourceFile

SCHEMA = "tiecheck-baseline/1"
"""Contract of a baseline's file."""


def settle_suppressions(outcome: RuleAnswers, facts: Facts, target: Target, config: Config) -> None:
    """Take back the findings that are ignored, allowed or accepted, and find what takes nothing back."""
    judged = frozenset(rule.code for rule in select_rules(config.select, config.ignore, facts))
    judged -= {skip.code for skip in outcome.skips}
    unused = suppress_findings(outcome.findings, target, config, facts.known("sources") or (), judged)
    idle = Facts({"suppressions": unused})
    for rule in select_rules(config.select, config.ignore, idle) if unused else ():
        apply_rule(rule, idle, target, outcome, None)


def suppress_findings(
    findings: list[Finding], target: Target, config: Config, sources: tuple[SourceFile, ...], judged: frozenset[str]
) -> tuple[Unused, ...]:
    """Mark the findings that are taken back, in place, and return the suppressions that took back nothing.

    `# tiecheck: ignore[TIE802] reason` in a source is for its line, `# tiecheck: ignore-file[TIE8]` for the file;
    without codes they are for all. Only rules that could judge (`judged`) leave a suppression unused.
    """
    name = relative_target(target.text)
    allowed = [entry for entry in config.allow if _meant(entry, name, target.text)]
    accepted = [entry for entry in read_baseline(config.baseline) if entry.target == name] if config.baseline else []
    left = Counter(entry.fingerprint for entry in accepted)
    used: set[object] = set()
    for i, finding in enumerate(findings):
        comment = _comment(finding, sources)
        entry = next((entry for entry in allowed if _allows(entry, finding)), None)
        if comment is not None:
            path, line, _ = comment
            why = f"tiecheck: ignore on {f'line {line}' if line else 'the file'}"
            used.add((path, line))
        elif entry is not None:
            why = f"allowed: {entry.reason}"
            used.add(entry)
        elif left[finding.fingerprint] > 0:
            left[finding.fingerprint] -= 1
            why = f"in the baseline {config.baseline}"
        else:
            continue
        findings[i] = finding._replace(suppressed=why)
    idle = [entry for entry in allowed if entry not in used and _judged((entry.rule,), judged)]
    told = [Unused(f"the allowance of {entry.rule} for {entry.target}", entry.place, None) for entry in idle]
    for one in accepted:
        if left[one.fingerprint] > 0 and one.code in judged:
            told.append(Unused(f"the entry for {one.code} in {name}", str(config.baseline), None))
            left[one.fingerprint] -= 1
    if target.type == "source":  # those of a downloaded model are nobody's to clear away
        told += _idle_comments(sources, used, judged)
    return tuple(told)


def _meant(entry: Allowance, name: str, text: str) -> bool:
    return any(fnmatchcase(word.rstrip("/"), entry.target.rstrip("/")) for word in (name, text))


def _allows(entry: Allowance, finding: Finding) -> bool:
    return finding.code.startswith(entry.rule.upper()) and set(entry.names) <= set(finding.names)


def _judged(codes: Iterable[str], judged: frozenset[str]) -> bool:
    """Tell whether each code, or beginning of codes, is of rules that could judge."""
    return all(any(code.startswith(prefix.upper()) for code in judged) for prefix in codes)


def _comment(finding: Finding, sources: tuple[SourceFile, ...]) -> tuple[str, int, tuple[str, ...]] | None:
    """Return the comment that takes a finding back: file, line (0 for the whole file) and codes."""
    place = finding.locations[0]
    for file in sources:
        if file.path == place.path:
            for line, codes, _ in file.ignores:
                if line in (0, place.line) and (not codes or finding.code.startswith(codes)):
                    return file.path, line, codes
    return None


def _idle_comments(sources: tuple[SourceFile, ...], used: set[object], judged: frozenset[str]) -> Iterator[Unused]:
    for file in sources:
        for line, codes, ours in file.ignores:
            if ours and (file.path, line) not in used and _judged(codes or ("TIE8",), judged):
                yield Unused(f"the comment {f'on line {line}' if line else 'for the file'}", file.path, line or None)


def read_baseline(path: str) -> tuple[Accepted, ...]:
    """Read a baseline; one that is not there, or is none, raises a `UsageError`."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a folder's own error says it better
            raise UsageError(f"the baseline {path} is a pipe or a device, not a regular file", path)
        return _entries(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the baseline {path} cannot be read: {why}", path) from error


@lru_cache(8)
def _entries(path: str, _changed: int, size: int) -> tuple[Accepted, ...]:
    if size > 64_000_000:
        raise UsageError(f"the baseline {path} has {size:,} bytes, and none has so many", path)
    with open(path, encoding="utf-8") as stream:
        try:
            document = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the baseline {path} is no JSON: {error}", path) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no baseline: `tiecheck baseline` writes one", path)
    rows = document.get("findings")
    if not isinstance(rows, list):
        raise UsageError(f"{path} is no baseline: it has no list of findings", path)
    return tuple(_entry(row, path) for row in rows)


def _entry(row: Any, path: str) -> Accepted:
    try:
        fields = (row["fingerprint"], row["code"], row["target"], *row["names"])
    except (KeyError, TypeError):
        fields = (None,)
    if not all(isinstance(field, str) for field in fields):
        raise UsageError(f"{path} is no baseline: an entry lacks fingerprint, code, target or names", path)
    return Accepted(row["fingerprint"], row["code"], row["target"], tuple(row["names"]))


def baseline_text(report: Report, config: Config) -> str:
    """Return the baseline that accepts today's findings, those that would fail a target."""
    rows = [
        Accepted(finding.fingerprint, finding.code, relative_target(target.target), finding.names)
        for target in report.targets
        for finding in target.counted()
        if at_least((finding,), config.fail_on)
    ]
    entries = [row._asdict() | {"names": list(row.names)} for row in sorted(rows)]
    return json.dumps({"schema": SCHEMA, "findings": entries}, indent=1) + "\n"
