"""What a plan promises of a model that is going to be loaded, and where a loaded one breaks it."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.placement import Device
from tiecheck.records.record import Record

What = Literal["tie", "missing", "device", "dtype", "shape", "values"]
"""What a broken promise is about."""


class Promise(Record):
    """One tie group as it will be after the load."""

    names: tuple[str, ...]
    """The names that will be one tensor, sorted; capped as in `Tie`."""
    devices: tuple[Device | None, ...]
    """Where each will lie: on a device that computes, on `cpu` or `disk` behind a hook; None where the map has none."""
    shape: tuple[int, ...] | None
    """Its shape; None where nobody knows it."""
    dtype: str | None
    """Its element type, torch's word; None for whatever the load gives."""
    nbytes: int | None
    """Bytes of one member; None where they are not known."""


class Broken(Record):
    """A promise that a loaded model does not keep."""

    what: What
    """What it is about."""
    names: tuple[str, ...]
    """The group, or the members that it is about."""
    promised: str
    """What was promised, in words that can stand after "promised: "."""
    found: str
    """What is, in words that can stand after "found: "."""
    help: str
    """How to mend it."""
