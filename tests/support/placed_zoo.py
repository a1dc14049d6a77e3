"""Classes loaded small under device maps, and what the gate says of each load beforehand.

The truth is `from_pretrained(device_map=...)` on the CPU with the disk, and a forward pass after it, against a load
without a map.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zoo_inputs import Inputs
from zoo_loads import FAILS, LONGEST, Came, Plain, again, load, plain_of, words_of
from zoo_stores import Ask, DeviceMap, Store, maps_of, on_meta, runnable

import tiecheck
from tiecheck.records.report import TargetReport
from tiecheck.tables.generate.classes import ClassCandidate

PATIENCE = 40.0
"""Seconds after which no further map of a class is begun."""


class Told(NamedTuple):
    """What the gate says of it."""

    codes: tuple[str, ...]
    """Rules that speak of an error of the placement."""
    messages: tuple[str, ...]
    """What the load is said to raise; empty where nothing is said to."""
    at: str
    """Where: `load` or `forward`."""
    unknown: tuple[str, ...]
    """Why something is not known."""
    proposal: DeviceMap | None
    """Its own map."""
    plan: DeviceMap | None
    """The map that it expects."""

    @property
    def reads(self) -> set[str]:
        """The modules whose weights the forward pass is said to miss."""
        names = [message.partition("KeyError: ")[2].strip("'") for message in self.messages]
        return {name.rpartition(".")[0] for name in names if name}


def told(where: Path, ask: Ask) -> Told:
    """What the gate says of a load."""
    report = tiecheck.check(where, device_map=copy.copy(ask.device_map), max_memory=ask.memory, select="TIE5")
    target: TargetReport = report.targets[0]
    codes = sorted({f.code for f in target.findings if f.code.startswith("TIE5") and f.severity == "error"})
    unknown = [skip.reason for skip in target.skips if skip.code.startswith("TIE5")]
    unknown += [error.message for error in report.errors]
    placement = target.placement
    raising = [one for one in placement.loads if one.form == "raises"] if placement else []
    first = next((one for one in raising if one.at == "load"), raising[0] if raising else None)
    messages = [one.message or "" for one in raising]
    at = first.at if first else ""
    if placement and placement.plans and placement.plans[0].crash:
        messages, at = [placement.plans[0].crash.error], "load"
    proposal = placement.proposal if placement else None
    return Told(
        tuple(codes),
        tuple(messages),
        at,
        tuple(dict.fromkeys(unknown)),
        dict(proposal.device_map) if proposal and proposal.device_map else None,
        dict(placement.plans[0].device_map) if placement and placement.plans else None,
    )


def judge(said: Told, came: Came, plain: Plain) -> tuple[str, str]:
    """Whether what was said is right, `unknown`, `missed`, a `false alarm`, or cannot be told; and why."""
    fails = came.word in FAILS
    if said.codes:
        if fails:
            return "right", ""
        if said.at == "forward" and plain.inputs is None:
            return "not run", "the error is said of a forward pass, for which no inputs were found"
        if said.at == "forward" and said.reads and said.reads.isdisjoint(plain.called):
            return "not run", "the error is said of a module that these inputs do not come to"
        return "false alarm", ""
    if said.unknown:
        return "unknown", said.unknown[0]
    return ("missed", "") if fails else ("right", "")


def row_of(candidate: ClassCandidate, plan: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Every load of a class that a plan names (variant -> maps), judged; or why the class could not be had."""
    row: dict[str, Any] = {"class": candidate.class_name, "model_type": candidate.model_type, "variant": "loads"}
    row |= {"not_built": None, "cells": [], "ran": None, "tied": None}
    begin = time.perf_counter()
    where = Path(tempfile.mkdtemp())
    try:
        store = Store.of(runnable(candidate), where)
        row["cells"] = list(_cells(store, plan, row))
    except Exception as error:  # noqa: BLE001 - a class may refuse a tiny config in any way
        row["not_built"] = words_of(error)
    shutil.rmtree(where)
    return row | {"seconds": round(time.perf_counter() - begin, 2)}


def _cells(store: Store, plan: Mapping[str, tuple[str, ...]], row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cls = store.one.model_class
    inputs: Inputs | None = None
    until = time.perf_counter() + PATIENCE
    for number, (variant, words) in enumerate(plan.items()):
        if number and not store.places:
            continue  # nothing is tied: it is stored once however it is stored
        where = store.directory(variant)
        try:
            plain = again(cls, where, inputs) if number else plain_of(cls, where)
        except Exception as error:  # noqa: BLE001 - then there is no truth
            yield {"variant": variant, "map": "", "word": "no truth", "why": f"a plain load: {words_of(error)}"}
            continue
        inputs = plain.inputs
        meta = on_meta(cls, where)
        row["ran"] = plain.inputs is not None
        asks = [ask for ask in maps_of(meta) if ask.word in words]
        row["tied"] = bool(dict(meta.all_tied_weights_keys or {}))
        yield from _under(store, variant, where, plain, asks, until=until)
        shutil.rmtree(where)


def _under(
    store: Store, variant: str, where: Path, plain: Plain, asks: list[Ask], *, until: float
) -> Iterator[dict[str, Any]]:
    """One directory under some maps, and under what is proposed for them."""
    tried: list[DeviceMap] = []
    for ask in asks:
        if time.perf_counter() > until:
            yield {"variant": variant, "map": ask.word, "word": "cut", "why": f"more than {PATIENCE:.0f} seconds"}
            continue
        said, came = told(where, ask), load(store.one.model_class, where, ask, plain)
        yield _cell(store, variant, ask, said, came, plain=plain)
        if said.proposal is not None and said.proposal not in tried:
            tried.append(said.proposal)
            ours = Ask("proposal", said.proposal)
            came = load(store.one.model_class, where, ours, plain)
            yield _cell(store, variant, ours, told(where, ours), came, plain=plain) | {"instead": ask.word}


def _cell(store: Store, variant: str, ask: Ask, said: Told, came: Came, *, plain: Plain) -> dict[str, Any]:
    word, why = judge(said, came, plain)
    if word == "missed":
        other = _control(store, ask)
        if other is not None and other.word in FAILS:
            word, why = "not the tie", f"untied it {other.word} too: {other.text}"
    planned = ask.word == "auto" and came.device_map is not None
    if planned and came.device_map != said.plan:
        why = f"planned {said.plan}, used {came.device_map}"
        word = "other map"
    worded = any(came.text.startswith(message[:80]) for message in said.messages) if said.messages else None
    return {
        "variant": variant,
        "map": ask.word,
        "word": word,
        "why": why[:LONGEST],
        "came": came.word,
        "text": came.text,
        "codes": said.codes,
        "messages": said.messages,
        "worded": worded if word == "right" else None,
        "disk": "disk" in ((came.device_map or said.plan or {}).values()),
        "device_map": None if word == "right" else ask.device_map,
    }


def _control(store: Store, ask: Ask) -> Came | None:
    """The same load of the class with its ties undone, where it can be had so."""
    path = store.untied()
    if path is None:
        return None
    try:
        plain = plain_of(store.one.model_class, path)
    except Exception:  # noqa: BLE001 - no control
        return None
    return load(store.one.model_class, path, ask, plain)
