"""Why a planner raised: read off the frames of its traceback, which have what it placed and what it looked for."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from traceback import walk_tb
from typing import Any, Literal, NamedTuple

from torch import nn

from tiecheck.peers.views.sight import told
from tiecheck.placement.planners.watching import PLANNER, SIZE
from tiecheck.records.placement import Crash

Cause = Literal["substring", "sibling", "root", "other"]

CHECK = "check_tied_parameters_on_same_device"
"""transformers 5.23 asks for the device of every declared name, once all is placed."""


class _Tripped(NamedTuple):
    """The tied name over which a planner raised."""

    tied: str
    """The name that it looked for."""
    group: tuple[str, ...]
    """The group of that name."""
    placing: str
    """The module that it was placing; empty where all was placed."""
    placed: Container[str]
    """Everything that had a device."""


def crash_of(error: Exception, module: nn.Module) -> Crash:
    """Return what a planner raised, with its cause where it was looking for a tied name.

    Args:
        error: What was raised, with its traceback.
        module: The model that was planned.
    """
    tripped = _tripped(error)
    if tripped is None:
        return Crash(told(error), "other", "", ())
    return Crash(told(error), _cause(module, tripped), tripped.placing, tuple(sorted(tripped.group)))


def _tripped(error: Exception) -> _Tripped | None:
    """Return the tied name that the frames of a planner speak of; None where they speak of none."""
    planning: Mapping[str, Any] = {}
    tied, at_end = None, False
    for frame, _ in walk_tb(error.__traceback__):
        function = frame.f_code.co_name
        if function == PLANNER:
            planning = frame.f_locals
        if function in (PLANNER, SIZE) and isinstance(error, IndexError):
            tied = frame.f_locals.get("tied_param", tied)
        if function == CHECK and isinstance(error, ValueError):
            tied, at_end = frame.f_locals.get("param"), True
    if tied is None or "tied_parameters" not in planning:
        return None
    group = next((tuple(one) for one in planning["tied_parameters"] if tied in one), (tied,))
    return _Tripped(tied, group, "" if at_end else planning["name"], planning["device_map"])


def _cause(module: nn.Module, at: _Tripped) -> Cause:
    """Return why no module that was in line holds the tied name."""
    if at.placing and "." not in at.tied:
        return "root"
    if at.placing and not any(_within(name, at.placing) for name in at.group):
        return "substring"  # nothing of the group is really in what was being placed
    if not at.placing and getattr(module, "_no_placement_params", None) is not None:
        return "other"
    *labels, last = at.tied.split(".")
    holder, path = module, ""
    for label in labels:
        path = f"{path}.{label}" if path else label
        below = dict(holder.named_children())
        if label not in below:
            return _unlisted(module, at.tied)
        if path in at.placed or path == at.placing:
            return "substring" if _taken_for_whole(at.group, path) else "other"
        holder = below[label]
    return "other" if last in dict(holder.named_parameters(recurse=False)) else _unlisted(module, at.tied)


def _taken_for_whole(group: Sequence[str], path: str) -> bool:
    """Whether a module was placed alone because the planner took a group for contained that is not."""
    return all(f"{path}." in f"{name}." for name in group) and not all(_within(name, path) for name in group)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _unlisted(module: nn.Module, name: str) -> Cause:
    """Name a name that no walk along `named_children()` comes to: an alias, or one that the model does not have."""
    return "sibling" if any(name == one for one, _ in module.named_parameters(remove_duplicate=False)) else "other"
