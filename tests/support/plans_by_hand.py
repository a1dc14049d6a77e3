"""Placement records from what the installed planners really gave: the one place to swap for the collector."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import accelerate
import accelerate.utils.modeling as planning
import transformers
from torch import nn
from transformers.integrations import accelerate as own_planning

import tiecheck
from tiecheck.config.options import Config
from tiecheck.facts.opening import module_facts
from tiecheck.placement.map_lookup import device_in, device_word
from tiecheck.records.live import LiveModel
from tiecheck.records.placement import Crash, Double, Placed, Placement, Plan
from tiecheck.records.words import TIED
from tiecheck.rules.base import Rule
from tiecheck.rules.cases import live_facts

VERSIONS = {"accelerate": accelerate.__version__, "transformers": transformers.__version__, "given": ""}


@contextmanager
def heard() -> Iterator[list[str]]:
    """What accelerate and transformers log or warn meanwhile, without what they say of devices that are not there."""
    lines: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "available devices" not in record.getMessage():
                lines.append(record.getMessage())

    ear = Ear()
    loggers = [logging.getLogger(name) for name in ("accelerate", "transformers")]
    for logger in loggers:
        logger.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lines
    finally:
        lines += [str(warning.message) for warning in caught]
        for logger in loggers:
            logger.removeHandler(ear)


def live_of(model: nn.Module, **changes: Any) -> LiveModel:
    """The live layer as tiecheck reads it."""
    live = module_facts(model, Config()).known("live")
    assert isinstance(live, LiveModel)
    return live._replace(**changes)


def facts_for(rule: type[Rule], facts: Placement, live: LiveModel | None = None) -> dict[str, Any]:
    """The facts that a rule on placement wants, of plans for a model; of a Llama in order where there is none."""
    known = {"placement": facts, **live_facts(live)}
    return {need: known[need] for need in rule.needs}


def accelerates(model: nn.Module, memory: Mapping[int | str, int], **options: Any) -> dict[str, int | str]:
    """The map of the installed accelerate."""
    return dict(accelerate.infer_auto_device_map(model, max_memory=dict(memory), **options))


def transformers_own(model: Any, memory: Mapping[int | str, int]) -> dict[str, int | str]:
    """The map of the installed transformers."""
    blocks = list(model._no_split_modules or [])
    return dict(own_planning.infer_auto_device_map(model, max_memory=dict(memory), no_split_module_classes=blocks))


def planned(tool: str, model: Any, memory: Mapping[int | str, int], cause: Any = "other", **options: Any) -> Plan:
    """One tool's plan for a model, as it comes out or as it raises.

    Args:
        tool: `accelerate` or `transformers`.
        model: The model.
        memory: Bytes by device; the GPUs need not be there.
        cause: What the crash is put down to, where there is one.
        options: More for accelerate's planner.
    """
    device_map: dict[str, int | str] = {}
    crash = None
    with heard() as logged:
        try:
            made: Callable[..., dict[str, int | str]] = accelerates if tool == "accelerate" else transformers_own
            device_map = made(model, memory, **options)
        except IndexError as error:
            names = max((tie.names for tie in tiecheck.find_ties(model)), key=len)
            crash = Crash(f"IndexError: {error}", cause, "", names)
    placed = places(model, device_map, tool) if crash is None else ()
    return Plan(
        tool=tool,  # type: ignore[arg-type]
        version=VERSIONS[tool],
        strategy="sequential",
        device_map=device_map,
        crash=crash,
        logged=tuple(dict.fromkeys(logged)),
        placed=placed,
    )


def given(model: Any, device_map: dict[str, int | str]) -> Plan:
    """A map that somebody gave, with what accelerate says of its keys."""
    with heard() as logged:
        planning.check_device_map(model, dict(device_map))
    return Plan("given", "", "map", device_map, logged=tuple(logged), placed=places(model, device_map, "given"))


def places(model: Any, device_map: Mapping[str, int | str], tool: str) -> tuple[Placed, ...]:
    """Every tie of a model, real or declared, under a map."""
    live = live_of(model)
    declared = {claim.names: claim.kind for claim in live.declared}
    kinds = {tie.names: tie.kind for tie in live.ties} | {
        names: kind for names, kind in declared.items() if kind not in TIED
    }
    sizes = {name: parameter.nbytes for name, parameter in model.named_parameters(remove_duplicate=False)}
    seen = {tuple(group) for group in planning.find_tied_parameters(model)} if tool == "accelerate" else set(declared)
    found = []
    for names, kind in sorted(kinds.items()):
        devices = [device_in(device_map, name) for name in names]
        told = tuple(None if device is None else device_word(device) for device in devices)
        sees = tool == "given" or names in seen
        found.append(Placed(names, kind, names in declared, told, sizes[names[0]], sees))
    return tuple(found)


def doubled(model: nn.Module, memory: Mapping[int | str, int]) -> Plan:
    """accelerate's plan, with what it counts twice, and what moves where it is made to count once."""
    plan = planned("accelerate", model, memory)
    doubles: list[Double] = []
    theirs = planning.get_module_size_with_ties

    def counting_once(tied: Any, size: Any, sizes: Any, treat: Any) -> Any:
        counted, names, modules = theirs(tied, size, sizes, treat)
        real = size + sum(sizes[name] for name in dict.fromkeys(names)) - sum(sizes[name] for name in tied)
        if counted > real:
            holder = next(name for name, _ in model.named_children() if not any(t.startswith(name) for t in tied))
            doubles.append(Double(holder, "cuda:0", tuple(sorted(tied)), counted, real))
        return real, names, modules

    planning.get_module_size_with_ties = counting_once
    try:
        once = accelerates(model, memory)
    finally:
        planning.get_module_size_with_ties = theirs
    homes = {name: (device_in(plan.device_map, name), device_in(once, name)) for name in {*plan.device_map, *once}}
    moved = {
        n: (device_word(now), device_word(then))
        for n, (now, then) in homes.items()
        if None not in (now, then) and now != then
    }
    return plan._replace(doubles=tuple(doubles[:1]), moved=moved)


def placement(*plans: Plan, **changes: Any) -> Placement:
    """What the rules read."""
    plain = Placement(plans[0].strategy, "--device-map", None, plans, None, installed=accelerate.__version__)
    return plain._replace(**changes)


def run_mend(draft: Any, device_map: dict[str, int | str] | None = None, **scope: Any) -> dict[str, Any]:
    """What the first alternative of a finding makes of `device_map` and what else its Python names."""
    names: dict[str, Any] = {"device_map": dict(device_map or {}), **scope}
    for step in draft.edits[0].steps:
        assert step.kind == "run-python"
        exec(step.code, names)
    return names
