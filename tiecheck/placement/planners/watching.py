"""The installed planner's own code with a watch on its counting.

A planner (`infer_auto_device_map`) is copied with a namespace of its own, in which the helper that counts a module with
what is tied to it is ours and calls theirs. Nothing of accelerate or transformers is changed, so that other threads
and the user's own calls meet what is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

from tiecheck.placement.map_lookup import device_word
from tiecheck.records.placement import Device, Double

PLANNER = "infer_auto_device_map"
SIZE = "get_module_size_with_ties"
"""The helper that counts: of accelerate from 1.2 and transformers 5. Without it nothing is told of the counting."""
BEGIN = "_init_infer_auto_device_map"
"""The helper that looks for ties, by `FIND` in accelerate."""
FIND = "find_tied_parameters"
CLEAN = "clean_device_map"
"""The helper that makes one entry of a module whose whole content is on one device."""


class Watch:
    """What a planner counts and places while it plans."""

    def __init__(self, *, once: bool = False) -> None:
        """Begin with nothing seen.

        Args:
            once: Whether to have the planner count a module once that is tied in several ways.
        """
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
        """Return the bytes that the planner believes to have put on each device, without what it kept free.

        Args:
            placed: Its map before it was cleaned.
        """
        found: dict[Device, Any] = {}
        for name, device in placed.items():
            word = device_word(device)
            found[word] = found.get(word, 0) + self._counted.get(name, 0)
        return {device: int(nbytes) for device, nbytes in found.items() if nbytes}

    def doubles(self, placed: Mapping[str, int | str]) -> tuple[Double, ...]:
        """Return the modules with which the planner counted another for more than one name, in its order."""
        return tuple(
            Double(name, device_word(placed[name]), tied, int(counted), int(real))
            for name, (tied, counted, real) in self._doubled.items()
            if name in placed
        )


def watched_planner(
    planner: Callable[..., Any], watch: Watch, groups: Sequence[Sequence[str]] | None = None
) -> Callable[..., Any]:
    """Return a copy of a planner that is watched, and that takes some groups for the ties of the model.

    Args:
        planner: The installed `infer_auto_device_map`.
        watch: What keeps its counting.
        groups: The groups that accelerate's is to find, in their order; None for those that it finds itself.
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
