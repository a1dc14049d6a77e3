"""What a gate raises: loading will hurt, or a loaded model does not keep a tie that was promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiecheck.errors import TiecheckError
from tiecheck.records.promises import Broken
from tiecheck.records.report import Report


class PlacementError(TiecheckError):
    """Loading a model under a device map will hurt: what `tiecheck.gate` raises before a weight is moved."""

    def __init__(self, message: str, report: Report, device_map: Mapping[str, Any] | None) -> None:
        super().__init__(message)
        self.report = report
        """The report whose findings say so."""
        self.device_map = device_map
        """The map that works better, or the planner's own where the map is not what hurts; None where there is none."""


class TieBroken(AssertionError):  # noqa: N818 - a state of the model, as AssertionError's own name is no verb either
    """A tie that was promised does not hold, or does not lie where it was to lie."""

    def __init__(self, message: str, broken: tuple[Broken, ...]) -> None:
        super().__init__(message)
        self.broken = broken
        """Each promise that is broken: the names, what was promised, what is, and the mend."""
