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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from tiecheck.peers.views.sight import told
from tiecheck.placement.planners.maps import Key
from tiecheck.placement.planners.reproduction import Tool
from tiecheck.placement.planners.sizes import torch_dtype
from tiecheck.records.placement import Ask, Crash, Plan

LOGGERS = ("accelerate.utils.modeling", "transformers.integrations.accelerate")
"""Where the planners log."""


ABSENT = re.compile(r"^Device .* is not available, available devices are")
"""What `get_max_memory` of accelerate 1.15 says of a GPU that the memory names and the machine lacks."""


class Ran(NamedTuple):
    """What a run gave."""

    plan: Plan
    """The plan, without what only the reproduction knows."""
    placed: dict[str, Key] | None
    """The map before it was cleaned; None where that is not known."""
    started: bool
    """Whether it came to placing anything; else it raised while it shared the memory out."""


def run(module: Any, tool: Tool, ask: Ask, *, quantizer: Any = None) -> Plan:
    """The device map of the installed planner.

    Args:
        module: The module; it is not changed. transformers plans for a `PreTrainedModel` only.
        tool: Whose planner.
        ask: What is asked for. transformers takes the class's own no-split modules and dtype whatever stands there.
        quantizer: transformers' quantizer, where there is one.

    Returns:
        The map as the tool writes it, what it logged or warned (warnings and worse), and what it raised.

    Raises:
        ImportError: The tool is not installed.
    """
    return run_fully(module, tool, ask, quantizer=quantizer).plan


def run_fully(module: Any, tool: Tool, ask: Ask, *, quantizer: Any = None) -> Ran:
    """The same, with the map before it was cleaned. See `run`."""
    installed: str = import_module(tool).__version__
    texts: list[str] = []
    allowed: list[dict[Key, Any]] = []
    placed: dict[str, Key] | None
    crash: Crash | None
    try:
        with captured(texts):
            if tool == "accelerate":
                device_map, placed = _accelerate(module, ask, allowed)
            else:
                device_map, placed = _transformers(module, ask, allowed, quantizer)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001  # what it raises is the result
        device_map, placed, crash = {}, None, Crash(told(error), "other", "", (), ())
    else:
        crash = None
    memory = allowed[0] if allowed else {}
    plan = Plan(tool, installed, ask.strategy, device_map, crash, tuple(dict.fromkeys(texts)), memory)
    return Ran(plan, placed, bool(allowed))


def is_pretrained(module: Any) -> bool:
    """Whether transformers plans for a module by itself: a `PreTrainedModel`, from transformers 5 on."""
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    if not isinstance(base, type) or not isinstance(module, base):
        return False
    installed: str = import_module("transformers").__version__
    return int(installed.partition(".")[0]) >= 5


def _accelerate(module: Any, ask: Ask, allowed: list[dict[Key, Any]]) -> tuple[dict[str, Key], dict[str, Key]]:
    from accelerate.utils.modeling import clean_device_map, get_balanced_memory, infer_auto_device_map

    no_split = getattr(module, "_no_split_modules", None) if ask.no_split is None else ask.no_split
    words = {
        "no_split_module_classes": None if no_split is None else list(no_split),
        "dtype": None if ask.dtype is None else torch_dtype(ask.dtype),
    }
    given: Any = None if ask.memory is None else dict(ask.memory)  # it writes into what it is given
    if ask.strategy != "sequential":
        given = get_balanced_memory(module, max_memory=given, low_zero=ask.strategy == "balanced_low_0", **words)
    elif given is None:
        given = machine_memory()
    allowed.append(dict(given))
    found: dict[str, Key] = infer_auto_device_map(module, max_memory=dict(given), clean_result=False, **words)
    placed = dict(found)
    return dict(clean_device_map(found)), placed  # as `clean_result=True` has it done


def machine_memory() -> Any:
    """Bytes by device that accelerate finds on this machine."""
    from accelerate.utils.modeling import get_max_memory

    return get_max_memory()


def _transformers(
    module: Any, ask: Ask, allowed: list[dict[Key, Any]], quantizer: Any
) -> tuple[dict[str, Key], dict[str, Key] | None]:
    from accelerate.utils.modeling import clean_device_map
    from transformers.integrations.accelerate import get_balanced_memory, get_max_memory, infer_auto_device_map

    given: Any = None if ask.memory is None else dict(ask.memory)
    no_split = module._no_split_modules
    if ask.strategy != "sequential":
        low_zero = ask.strategy == "balanced_low_0"
        given = get_balanced_memory(
            module, max_memory=given, no_split_module_classes=no_split, hf_quantizer=quantizer, low_zero=low_zero
        )
    else:
        given = get_max_memory(given)
    if quantizer is not None:
        given = quantizer.adjust_max_memory(given)
    allowed.append(dict(given))
    words: dict[str, Any] = {"no_split_module_classes": no_split, "hf_quantizer": quantizer}
    whole = getattr(module, "_no_placement_params", None)
    if whole is not None:
        words["no_placement_params"] = whole  # from 5.16; such a map is not cleaned
    placed: dict[str, Key] | None
    try:
        found = infer_auto_device_map(module, max_memory=dict(given), clean_result=False, **words)
        placed = dict(found)
        device_map = dict(found if whole is not None else clean_device_map(found))
    except ValueError:
        # A declared name that no module holds has a device in the cleaned map alone (`_get_param_device`).
        device_map = dict(infer_auto_device_map(module, max_memory=dict(given), **words))
        placed = device_map if whole is not None else None
    if quantizer is not None:
        quantizer.validate_environment(device_map=device_map)
    return device_map, placed


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
def captured(texts: list[str]) -> Iterator[None]:
    """Put what the planners log and warn into a list, whatever the user's settings, and show nobody.

    Args:
        texts: What to add to, in order; warnings and worse.
    """
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
