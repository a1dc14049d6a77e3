"""Counts over the rows of a fleet, chunk by chunk and all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tiecheck._version import __version__
from tiecheck.records.fleet import FleetCount, FleetSummary, RunCounts, WorstModel

WORST = 20
"""Models that are named: the worst ones, and the first that could not be judged."""

NAMES = 5_000
"""Classes, or loaders, that are counted one by one; those beyond are counted together."""

OTHERS = "(others)"


class FleetTally:
    """Counts of models and findings."""

    def __init__(self) -> None:
        self.plain: Counter[str] = Counter()
        """`models`, `unchecked`, `skips`, `bytes`, `requests`; and `status ...` and `severity ...`, words each."""
        self.by: dict[str, dict[str, list[int]]] = {"rules": {}, "architectures": {}, "loaders": {}}
        """Name -> its models, those of them that fail, those in error."""
        self.worst: list[tuple[int, int, str, str | None, tuple[str, ...]]] = []
        self.errors: list[tuple[str, str]] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count one model: the rows of its findings, then its own."""
        *findings, row = rows
        plain = self.plain
        status = row["status"]
        plain["models"] += 1
        plain[f"status {status}"] += 1
        plain["skips"] += row["skips"]
        if not row["checked"]:
            plain["unchecked"] += 1
        if row["requests"] is not None:
            plain["bytes"] += row["bytes"] or 0
            plain["requests"] += row["requests"]
        if row["error"] is not None and len(self.errors) < WORST:
            self.errors.append((row["target"], row["error"]))
        self._count("architectures", row["architecture"] or "(none)", status)
        counted = [found for found in findings if found["suppressed"] is None]
        if not counted:
            return
        for code in row["codes"]:
            self._count("rules", code, status)
        grave = [found for found in counted if found["severity"] != "info"]
        for found in counted:
            plain[f"severity {found['severity']}"] += 1
        for loader in dict.fromkeys(title for found in grave for title in found["hurts"] or ()):
            self._count("loaders", loader, status)
        if grave:
            errors = sum(found["severity"] == "error" for found in grave)
            self.worst.append((-errors, errors - len(grave), row["target"], row["architecture"], tuple(row["codes"])))
            if len(self.worst) > 2 * WORST:
                self._cut()

    def merge(self, other: FleetTally) -> None:
        """Add the counts of another chunk."""
        self.plain.update(other.plain)
        for kind, names in other.by.items():
            held = self.by[kind]
            for name, counts in names.items():
                known = name if name in held or len(held) < NAMES else OTHERS
                held[known] = [a + b for a, b in zip(held.get(known, (0, 0, 0)), counts, strict=True)]
        self.worst += other.worst
        self._cut()
        self.errors = (self.errors + other.errors)[:WORST]

    def summary(self, run: RunCounts) -> FleetSummary:
        """Return the counts as the record that is shown, with those of this run."""
        self._cut()
        plain = self.plain
        return FleetSummary(
            version=__version__,
            run=run,
            status={word: plain[f"status {word}"] for word in ("pass", "fail", "unknown", "error")},
            severity={word: plain[f"severity {word}"] for word in ("error", "warning", "info")},
            unchecked=plain["unchecked"],
            skips=plain["skips"],
            bytes=plain["bytes"],
            requests=plain["requests"],
            rules=self._sorted("rules"),
            architectures=self._sorted("architectures"),
            loaders=self._sorted("loaders"),
            worst=tuple(WorstModel(target, architecture, codes) for _, _, target, architecture, codes in self.worst),
            errors=tuple(self.errors),
        )

    def _count(self, kind: str, name: str, status: str) -> None:
        held = self.by[kind]
        counts = held.get(name)
        if counts is None:
            counts = held[name] = [0, 0, 0]
        counts[0] += 1
        if status == "fail":
            counts[1] += 1
        elif status == "error":
            counts[2] += 1

    def _cut(self) -> None:
        self.worst.sort(key=lambda worst: worst[:3])
        del self.worst[WORST:]

    def _sorted(self, kind: str) -> tuple[FleetCount, ...]:
        found = [FleetCount(name, *counts) for name, counts in self.by[kind].items()]
        return tuple(sorted(found, key=lambda one: (-one.fail, -one.error, -one.models, one.name)))
