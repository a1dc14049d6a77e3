"""What the gate asks of a report and of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.errors import TargetError
from tiecheck.records.report import Report
from tiecheck.wording import size

if TYPE_CHECKING:
    from tiecheck.records.placement import Placement


def placement_of(report: Report) -> Placement:
    """The placement of a report's one target.

    Raises:
        TiecheckError: There is none, and why.
    """
    target = report.targets[0]
    if target.errors:
        raise TargetError("; ".join(error.message for error in target.errors), target.errors[0].path)
    if target.placement is None:
        reasons = dict.fromkeys(skip.reason for skip in target.skips if skip.code.startswith("TIE5"))
        why = "; ".join(reasons) or "; ".join(dict.fromkeys(skip.reason for skip in target.skips))
        why = why or "its modules are not known"
        raise TargetError(f"no plan can be made for {target.target}: {why}", target.target)
    return target.placement


def no_map(placement: Placement) -> str:
    """Why there is no map to load with."""
    crash = placement.plans[0].crash if placement.plans else None
    raised = f"the planner raises {crash.error}" if crash is not None else "there is no plan"
    proposal = placement.proposal
    if proposal is None:
        return f"{raised}, and no map of ours was made"
    return f"{raised}, and no map of ours fits: {proposal.reason}; {size(proposal.lacks)} are missing"


def given(load: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call already has its `device_map`, by name or by place."""
    import inspect

    if "device_map" in kwargs:
        return True
    try:
        return "device_map" in inspect.signature(load).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # no signature, or a call that will fail by itself
        return False


def module_of(loaded: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The module that a load gave back, or filled."""
    from torch import nn

    candidates = (loaded, *loaded) if isinstance(loaded, tuple) else (loaded,)
    if loaded is None:
        candidates = (*args, *kwargs.values())
    return next((one for one in candidates if isinstance(one, nn.Module)), loaded)
