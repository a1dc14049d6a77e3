"""The installed planners called as their own loaders call them, to hold our runs against."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from accelerate.utils import modeling
from torch import nn
from transformers.integrations import accelerate as integration

from tiecheck.peers.views.tool_functions import error_words
from tiecheck.placement.planners.plans import plans_and_groups
from tiecheck.records.placement import Ask, Plan

THEIRS = modeling.get_module_size_with_ties


def total_bytes(module: nn.Module) -> int:
    """Bytes of a model, each tensor once; at least a few."""
    held = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return max(8, sum(one.numel() * one.element_size() for one in held.values()))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing logged or warned."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def given(tool: str, module: Any, ask: Ask) -> tuple[dict[str, int | str], str | None]:
    """A planner's map, and what it raises.

    Args:
        tool: `accelerate` or `transformers`.
        module: The model.
        ask: What is asked for.
    """
    try:
        with quietly():
            if tool == "transformers":
                return dict(integration._get_device_map(module, ask.strategy, _memory(ask), None)), None
            return dict(_accelerates(module, ask)), None
    except Exception as error:  # noqa: BLE001  # what it raises is compared
        return {}, error_words(error)


def _memory(ask: Ask) -> dict[int | str, int] | None:
    return None if ask.memory is None else dict(ask.memory)


def _accelerates(module: Any, ask: Ask) -> dict[str, int | str]:
    no_split = getattr(module, "_no_split_modules", None) if ask.no_split is None else ask.no_split
    words: dict[str, Any] = {
        "no_split_module_classes": None if no_split is None else list(no_split),
        "dtype": None if ask.dtype is None else getattr(torch, ask.dtype),
    }
    memory = _memory(ask)
    if ask.strategy != "sequential":
        low_zero = ask.strategy == "balanced_low_0"
        memory = modeling.get_balanced_memory(module, max_memory=memory, low_zero=low_zero, **words)
    return modeling.infer_auto_device_map(module, max_memory=memory, **words)


def agree(plan: Plan, module: Any, ask: Ask) -> None:
    """A plan is what its tool gives when nobody watches it."""
    real, error = given(plan.tool, module, ask)
    assert dict(plan.device_map) == real, (plan, real, error)
    assert (plan.crash is None) == (error is None), (plan, error)
    assert plan.crash is None or plan.crash.error == error, (plan, error)


@contextlib.contextmanager
def counting_once() -> Iterator[None]:
    """accelerate, made to count each module that is tied to another once."""

    def once(tied: Any, size: Any, sizes: Any, pending: Any) -> Any:
        _, names, modules = THEIRS(tied, size, sizes, pending)
        return size + sum(sizes[name] for name in dict.fromkeys(names)), names, modules

    with mock.patch.object(modeling, "get_module_size_with_ties", once):
        yield


def plans_of(module: Any, ask: Ask, **given: Any) -> tuple[Plan, ...]:
    """The plans of the installed planners."""
    return tuple(plan for plan, _ in plans_and_groups(module, ask, **given))
