"""tiecheck's word on an untouched live model held against what is true of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from subjects import ClassCandidate, Names, Truth, embeddings_of, flags_of, make, truth_of

import tiecheck
from tiecheck.records.report import TargetReport

MANY = 100_000
"""Names a group may have in `find_ties`: none is cut."""


def row_of(candidate: ClassCandidate, variant: str) -> dict[str, Any]:
    """One line of the table: what was built, what is true, what tiecheck said, and what is wrong with that.

    CPU seconds of the build, of the truth and of tiecheck are told apart.
    """
    row: dict[str, Any] = {
        "class": candidate.class_name,
        "model_type": candidate.model_type,
        "mapped": not candidate.module,
        "variant": variant,
        "not_built": None,
    }
    begin = time.process_time()
    try:
        model = make(candidate, variant)
    except Exception as error:  # noqa: BLE001 - a default config may be refused in any way, and the row says how
        return row | {"not_built": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    built = time.process_time()
    real = truth_of(model)
    known = time.process_time()
    ties = {tie.names: tie.kind for tie in tiecheck.find_ties(model, cap=MANY)}
    report = tiecheck.check(model).targets[0]
    seconds = {"build": built - begin, "truth": known - built, "tiecheck": time.process_time() - known}
    return row | {
        "names": real.names,
        "parameters": real.parameters,
        "declares": real.declares,
        "groups": len(real.groups),
        "sizes": sorted({len(names) for names in real.groups}),
        "kinds": sorted(set(real.groups.values())),
        "free_aliases": real.free_aliases,
        "flags": dict(flags_of(model.config)),
        "heads": heads(model),
        "wrong": [*wrong_facts(real.groups, ties), *wrong_report(real, report)],
        "status": report.status,
        "findings": [
            {"code": f.code, "severity": f.severity, "names": list(f.names), "message": f.message}
            for f in report.findings
        ],
        "unknown": sorted({f"{skip.code}: {skip.reason}" for skip in report.skips}),
        "seconds": seconds,
    }


def heads(model: Any) -> str:
    """Whether a model's own getters return one weight, two that could be one, or two that could not; else empty."""
    pair = embeddings_of(model)
    if pair is None or not all(hasattr(weight, "shape") for weight in pair):
        return ""
    return "one" if pair[0] is pair[1] else "two of one shape" if pair[0].shape == pair[1].shape else "two shapes"


def wrong_facts(real: dict[Names, str], said: dict[Names, str]) -> Iterator[str]:
    """Groups that are missing, invented, or of another kind."""
    yield from (f"not found: {names}" for names in real.keys() - said.keys())
    yield from (f"invented: {names} ({said[names]})" for names in said.keys() - real.keys())
    for names in real.keys() & said.keys():
        if real[names] != said[names]:
            yield f"{names} is {real[names]} and said to be {said[names]}"


def wrong_report(real: Truth, report: TargetReport) -> Iterator[str]:
    """What the report of a check says of groups and aliases that is not so, and errors of its own."""
    yield from (f"error: {error.message}" for error in report.errors)
    entries = {entry.names: entry for entry in report.ties if entry.kind in ("module", "parameter")}
    held = {name: group for group in (*real.groups, *real.buffers) for name in group}
    for names, kind in real.groups.items():
        entry = next((e for n, e in entries.items() if set(n) <= set(names) and len(n) > 1), None)
        if entry is None:
            yield f"no entry: {names}"
        elif entry.names == names and entry.kind != kind:
            yield f"the entry {names} is {kind} and said to be {entry.kind}"
    for names in entries:
        if len({held.get(name) for name in names}) != 1 or names[0] not in held:
            yield f"an entry of what is not tied: {names}"
    free = [alias.paths for alias in report.aliases if not alias.names]
    yield from (f"an alias without a parameter: {paths}" for paths in free)
