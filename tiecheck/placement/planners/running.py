"""Runs the installed planners as their loaders do.

accelerate 1.15: `load_checkpoint_and_dispatch` balances memory for every strategy but `sequential`, then calls
`infer_auto_device_map`. transformers 5.23: `_get_device_map`, of which the steps are taken here one by one so that the
memory between them is known; `from_pretrained` calls it on the class as built, before weights and ties.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch

from tiecheck.placement.map_lookup import Key
from tiecheck.placement.planners.watching import PlannerWatch, crash_of, watched_planner
from tiecheck.records.placement import Ask, Plan

Tool = Literal["accelerate", "transformers"]
Groups = tuple[tuple[str, ...], ...]

LOGGERS = ("accelerate.utils.modeling", "transformers.integrations.accelerate")

ABSENT = re.compile(r"^Device .* is not available, available devices are")
"""Warning of `get_max_memory` (accelerate 1.15) about a GPU that the memory names and the machine lacks."""


class PlannerCase(NamedTuple):
    """One planner and what it is asked."""

    module: Any
    """The model it plans for; it is not changed. transformers plans for a `PreTrainedModel` only."""
    tool: Tool
    ask: Ask
    """The request. transformers takes the class's own no-split modules and dtype whatever stands there."""
    quantizer: Any = None
    """transformers' quantizer, where there is one."""


class Ran(NamedTuple):
    """The result of a run."""

    plan: Plan
    """The plan, with what was raised and logged."""
    watch: PlannerWatch
    """The counting of the planner, and its groups."""
    started: bool = True
    """True where it came to placing anything; else it raised while it shared the memory out."""

    @property
    def placed(self) -> Mapping[str, Key]:
        """The map before it was cleaned; empty where it raised."""
        return self.plan.device_map if self.watch.placed is None else self.watch.placed


def run_planner(case: PlannerCase) -> Ran:
    """Run the installed planner.

    Returns:
        The map as the tool writes it, what it logged or warned (warnings and worse), and what it raised.

    Raises:
        ImportError: The tool is not installed.
    """
    texts: list[str] = []
    with captured_logs(texts):
        try:
            memory = (_accelerates_memory if case.tool == "accelerate" else _transformers_memory)(case)
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001  # what it raises is the result
            return Ran(
                _plan(case, {}, texts)._replace(crash=crash_of(error, case.module)), PlannerWatch(), started=False
            )
        return _planned(case, memory, PlannerWatch(), None, texts)


def plan_again(case: PlannerCase, ran: Ran, *, groups: Groups | None = None, once: bool = False) -> Ran:
    """Run the installed planner under the memory of an earlier run, with its ties in another order or counted once."""
    texts: list[str] = []
    with captured_logs(texts):
        return _planned(case, dict(ran.plan.memory), PlannerWatch(once=once), groups, texts)


def is_pretrained(module: Any) -> bool:
    """Return whether transformers plans for a module by itself: a `PreTrainedModel`, from transformers 5 on."""
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    if not isinstance(base, type) or not isinstance(module, base):
        return False
    installed: str = import_module("transformers").__version__
    return int(installed.partition(".")[0]) >= 5


def machine_memory() -> Any:
    """Return the bytes by device that accelerate finds on this machine."""
    from accelerate.utils.modeling import get_max_memory

    return get_max_memory()


def _plan(case: PlannerCase, memory: Mapping[Key, Any], texts: list[str]) -> Plan:
    """Return a plan without a map."""
    installed: str = import_module(case.tool).__version__
    return Plan(case.tool, installed, case.ask.strategy, {}, None, tuple(dict.fromkeys(texts)), memory)


def _planned(
    case: PlannerCase, memory: dict[Key, Any], watch: PlannerWatch, groups: Groups | None, texts: list[str]
) -> Ran:
    """Plan under a memory that was shared out."""
    try:
        infer = _accelerate if case.tool == "accelerate" else _transformers
        device_map = infer(case, memory, watch, groups)
    except Exception as error:  # noqa: BLE001  # what it raises is the result
        return Ran(_plan(case, memory, texts)._replace(crash=crash_of(error, case.module)), watch)
    return Ran(_plan(case, memory, texts)._replace(device_map=device_map), watch)


def _accelerates_words(case: PlannerCase) -> dict[str, Any]:
    ask = case.ask
    no_split = getattr(case.module, "_no_split_modules", None) if ask.no_split is None else ask.no_split
    return {
        "no_split_module_classes": None if no_split is None else list(no_split),
        "dtype": None if ask.dtype is None else getattr(torch, ask.dtype.removeprefix("torch.")),
    }


def _accelerates_memory(case: PlannerCase) -> dict[Key, Any]:
    from accelerate.utils.modeling import get_balanced_memory

    ask = case.ask
    given: Any = None if ask.memory is None else dict(ask.memory)  # it writes into what it is given
    if ask.strategy == "sequential":
        return dict(machine_memory() if given is None else given)
    low_zero = ask.strategy == "balanced_low_0"
    return dict(get_balanced_memory(case.module, max_memory=given, low_zero=low_zero, **_accelerates_words(case)))


def _accelerate(
    case: PlannerCase, memory: dict[Key, Any], watch: PlannerWatch, groups: Groups | None
) -> dict[str, Key]:
    from accelerate.utils.modeling import infer_auto_device_map

    infer = watched_planner(infer_auto_device_map, watch, groups)
    return dict(infer(case.module, max_memory=dict(memory), **_accelerates_words(case)))


def _transformers_memory(case: PlannerCase) -> dict[Key, Any]:
    from transformers.integrations.accelerate import get_balanced_memory, get_max_memory

    given: Any = None if case.ask.memory is None else dict(case.ask.memory)
    no_split, quantizer = case.module._no_split_modules, case.quantizer
    if case.ask.strategy != "sequential":
        low_zero = case.ask.strategy == "balanced_low_0"
        given = get_balanced_memory(
            case.module, max_memory=given, no_split_module_classes=no_split, hf_quantizer=quantizer, low_zero=low_zero
        )
    else:
        given = get_max_memory(given)
    return dict(given if quantizer is None else quantizer.adjust_max_memory(given))


def _transformers(
    case: PlannerCase, memory: dict[Key, Any], watch: PlannerWatch, groups: Groups | None
) -> dict[str, Key]:
    from transformers.integrations.accelerate import infer_auto_device_map

    infer = watched_planner(infer_auto_device_map, watch)
    words: dict[str, Any] = {"no_split_module_classes": case.module._no_split_modules, "hf_quantizer": case.quantizer}
    if groups:
        words["tied_parameters"] = [list(group) for group in groups]
    whole = getattr(case.module, "_no_placement_params", None)
    if whole is not None:
        words["no_placement_params"] = whole  # from 5.16; such a map is not cleaned
    device_map = dict(infer(case.module, max_memory=dict(memory), **words))
    if case.quantizer is not None:
        case.quantizer.validate_environment(device_map=device_map)
    return device_map


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message, but not that a device of the plan is not here: a plan is made elsewhere."""
        text = record.getMessage()
        if not ABSENT.search(text):
            self._texts.append(text)


@contextmanager
def captured_logs(texts: list[str]) -> Iterator[None]:
    """Put what the planners log and warn into a list, whatever the user's settings, and show nobody."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.handlers, one.propagate, one.level, one.disabled) for one in loggers]
    disabled = logging.root.manager.disable
    kept = _Kept(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: texts.append(str(message))
        logging.disable(logging.NOTSET)
        for one in loggers:
            one.handlers, one.propagate, one.disabled = [kept], False, False
            one.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for one, (handlers, propagate, level, off) in zip(loggers, before, strict=True):
                one.handlers, one.propagate, one.disabled = handlers, propagate, off
                one.setLevel(level)
            logging.disable(disabled)
