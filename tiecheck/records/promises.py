"""The promises of a plan for a model that is going to be loaded, and how a loaded one breaks them."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.placement import Device
from tiecheck.records.record import Record

What = Literal["tie", "missing", "device", "dtype", "shape", "values"]
"""Subject of a broken promise."""


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
    """Subject of the promise."""
    names: tuple[str, ...]
    """The group, or the members that it is about."""
    promised: str
    """Promised state, in words that can stand after "promised: "."""
    found: str
    """Real state, in words that can stand after "found: "."""
    help: str
    """Advice to fix it."""
