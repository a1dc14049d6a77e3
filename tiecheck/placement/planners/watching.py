"""The installed planner's own code with a watch on its counting, and the reason for what it raises.

A planner (`infer_auto_device_map`) is copied with a namespace of its own, in which the helpers that count and clean are
ours and call theirs. Nothing of accelerate or transformers is changed, so that other threads and the user's own calls
meet what is installed. Why it raised is read off the frames of its traceback, which have what it placed and what it
looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from math import ceil
from traceback import walk_tb
from types import FunctionType
from typing import Any, Literal, NamedTuple

from torch import nn

from tiecheck.peers.views.tool_functions import error_words
from tiecheck.placement.map_lookup import device_word
from tiecheck.records.placement import Crash, Device, Double

PLANNER = "infer_auto_device_map"
SIZE = "get_module_size_with_ties"
"""The helper that counts: of accelerate from 1.2 and transformers 5. Without it nothing is told of the counting."""
BEGIN = "_init_infer_auto_device_map"
"""The helper that looks for ties, by `FIND` in accelerate."""
FIND = "find_tied_parameters"
CLEAN = "clean_device_map"
"""The helper that makes one entry of a module whose whole content is on one device."""


class PlannerWatch:
    """The counting and placing of a planner while it plans."""

    def __init__(self, *, once: bool = False) -> None:
        """Begin with nothing seen; `once` has the planner count a module once that is tied in several ways."""
        self.once = once
        self.groups: tuple[tuple[str, ...], ...] = ()
        """The groups that the planner takes for one tensor, in its order."""
        self.placed: dict[str, int | str] | None = None
        """Its map before it was cleaned; None where it was not cleaned."""
        self._counted: dict[str, Any] = {}
        self._doubled: dict[str, tuple[tuple[str, ...], Any, Any]] = {}

    def size(
        self, theirs: Callable[..., Any], tied: Sequence[str], size: Any, sizes: Mapping[str, Any], pending: Any
    ) -> Any:
        """Count a module as the planner does, and keep that by the module's name.

        The planner comes here for each module at the head of its line, again where that was not placed, and never for
        one that goes with another: what was kept last of a module that is in its map is what it was placed with.
        """
        frame = sys._getframe(1).f_locals
        if not self._counted:
            self.groups = tuple(tuple(group) for group in frame.get("tied_parameters", ()) if group)
        counted, holders, modules = theirs(tied, size, sizes, pending)
        real = size + sum([sizes[holder] for holder in dict.fromkeys(holders)]) if tied else counted
        name = frame.get("name", "")
        self._counted[name] = counted
        self._doubled.pop(name, None)
        if counted > real:
            again = [one for one, holder in zip(tied, holders, strict=True) if holders.count(holder) > 1]
            self._doubled[name] = tuple(sorted(again)), counted, real
        return real if self.once else counted, holders, modules

    def clean(self, theirs: Callable[..., Any], device_map: dict[str, int | str]) -> Any:
        """Clean a map as the planner does, and keep what it was before."""
        self.placed = dict(device_map)
        return theirs(device_map)

    def counted(self, placed: Mapping[str, int | str]) -> dict[Device, int]:
        """Return the bytes the planner believes to have put on each device by its uncleaned map."""
        found: dict[Device, Any] = {}
        for name, device in placed.items():
            word = device_word(device)
            found[word] = found.get(word, 0) + self._counted.get(name, 0)
        return {device: int(nbytes) for device, nbytes in found.items() if nbytes}

    def doubles(self, placed: Mapping[str, int | str]) -> tuple[Double, ...]:
        """Return the modules with which the planner counted another for more than one name, in its order."""
        return tuple(
            Double(name, device_word(placed[name]), tied, ceil(counted), int(real))
            for name, (tied, counted, real) in self._doubled.items()
            if name in placed
        )


def watched_planner(
    planner: Callable[..., Any], watch: PlannerWatch, groups: Sequence[Sequence[str]] | None = None
) -> Callable[..., Any]:
    """Return a copy of the installed `infer_auto_device_map` that is watched.

    With groups accelerate's takes these for the ties of the model, in their order, and looks for none.
    """
    if not isinstance(planner, FunctionType):
        return planner
    names = dict(planner.__globals__)
    if SIZE in names:
        names[SIZE] = partial(watch.size, names[SIZE])
    if CLEAN in names:
        names[CLEAN] = partial(watch.clean, names[CLEAN])
    if groups is not None:
        names[FIND] = lambda _model: [list(group) for group in groups]
    if isinstance(names.get(BEGIN), FunctionType):
        names[BEGIN] = _copied(names[BEGIN], names)
    return _copied(planner, names)


def _copied(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


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
    """Return what a planner raised, with its cause where the traceback shows that it was looking for a tied name."""
    tripped = _tripped(error)
    if tripped is None:
        return Crash(error_words(error), "other", "", ())
    return Crash(error_words(error), _cause(module, tripped), tripped.placing, tuple(sorted(tripped.group)))


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
    """Return whether a module was placed alone because the planner took a group for contained that is not."""
    return all(f"{path}." in f"{name}." for name in group) and not all(_within(name, path) for name in group)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _unlisted(module: nn.Module, name: str) -> Cause:
    """Name a name that no walk along `named_children()` comes to: an alias, or one that the model does not have."""
    return "sibling" if any(name == one for one, _ in module.named_parameters(remove_duplicate=False)) else "other"
