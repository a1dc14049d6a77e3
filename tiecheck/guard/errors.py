"""The errors that a gate raises, and their words: loading will hurt, or a loaded model does not keep a promised tie."""

from __future__ import annotations

import pprint
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tiecheck.errors import TargetError, TiecheckError
from tiecheck.placement.promises import is_sound
from tiecheck.records.life import Break
from tiecheck.records.placement import Broken, Placed, Placement
from tiecheck.records.report import Finding, Report, TargetReport
from tiecheck.wording import listed, size

SHOWN = 8
"""Findings, broken promises and lines of a map that a message shows."""


class PlacementError(TiecheckError):
    """Loading a model under a device map will hurt: what `tiecheck.gate` raises before a weight is moved."""

    lines = True

    def __init__(self, message: str, report: Report, device_map: Mapping[str, Any] | None) -> None:
        super().__init__(message)
        self.report = report
        """The report whose findings say so."""
        self.device_map = device_map
        """The map that works better, or the planner's own where the map is not what hurts; None where there is none."""


class TieBroken(AssertionError):  # noqa: N818 - a state of the model, as AssertionError's own name is no verb either
    """A tie that was promised does not hold, or does not lie where it was to lie."""

    def __init__(self, message: str, broken: tuple[Broken, ...] | tuple[Break, ...]) -> None:
        super().__init__(message)
        self.broken = broken
        """Promises that a load broke: the names, what was promised, what is, and how to fix it; of a guard the ties
        that broke, each with its `operation`, and the line in `since`."""


def placement_of(report: Report) -> Placement:
    """Return the placement of a report's one target; a `TiecheckError` tells why there is none."""
    target = report.targets[0]
    if target.errors:
        raise TargetError("; ".join(error.message for error in target.errors), target.errors[0].path)
    if target.placement is None:
        reasons = dict.fromkeys(skip.reason for skip in target.skips if skip.code.startswith("TIE5"))
        why = "; ".join(reasons) or "; ".join(dict.fromkeys(skip.reason for skip in target.skips))
        why = why or "its modules are not known"
        raise TargetError(f"no plan can be made for {target.target}: {why}", target.target)
    return target.placement


def no_map_text(placement: Placement) -> str:
    """Return the reason why there is no map to load with."""
    crash = placement.plans[0].crash if placement.plans else None
    raised = f"the planner raises {crash.error}" if crash is not None else "there is no plan"
    proposal = placement.proposal
    if proposal is None:
        return f"{raised}, and no map of ours was made"
    return f"{raised}, and no map of ours fits: {proposal.reason}; {size(proposal.lacks)} are missing"


def hurting_text(target: TargetReport, hurting: Sequence[Finding], placement: Placement) -> str:
    """Tell why loading a target under a map hurts, in lines: codes, groups, devices, and how to fix it."""
    what = placement.origin if placement.strategy == "map" else f"device_map={placement.strategy!r}"
    lines = [f"loading {target.target} under {what.rstrip('=')} will hurt"]
    for finding in hurting[:SHOWN]:
        lines.append(f"  {finding.code} {finding.name}: {finding.message}")
        lines += [f"    {line}" for line in _devices(finding, placement)]
        lines.append(f"    {finding.help}")
    if len(hurting) > SHOWN:
        lines.append(f"  and {len(hurting) - SHOWN} more")
    lines += _proposed(placement)
    return "\n".join(lines)


def _devices(finding: Finding, placement: Placement) -> Iterator[str]:
    """Yield where the first plan puts the members that a finding is about, if it separates them."""
    groups: tuple[Placed, ...] = placement.plans[0].placed if placement.plans else ()
    for group in groups:
        if set(finding.names) >= set(group.names) and len(set(group.devices)) > 1:
            pairs = zip(group.names[:SHOWN], group.devices, strict=False)
            yield ", ".join(f"{name} on {device or 'no device'}" for name, device in pairs)


def _proposed(placement: Placement) -> list[str]:
    """Return the lines with the map that works, or with the reason why there is none."""
    proposal = placement.proposal
    if proposal is None or is_sound(placement):
        return []
    if not proposal.device_map:
        return [f"  no map keeps them together: {proposal.reason}; {size(proposal.lacks)} are missing"]
    text = pprint.pformat(dict(proposal.device_map), sort_dicts=False, compact=True, width=100).splitlines()
    rest = len(text) - SHOWN
    more = [f"    and {rest} more lines: `device_map` of this error has them all"] if rest > 0 else []
    note = f" ({proposal.reason})" if proposal.reason else ""
    return [f"  this device_map keeps them together{note}:", *[f"    {line}" for line in text[:SHOWN]], *more]


def broken_text(model: str, broken: Sequence[Broken]) -> str:
    """Tell what a model of some class does not keep of what was promised, in lines."""
    lines = [f"{model} was not loaded as promised"]
    for one in broken[:SHOWN]:
        lines += [f"  {listed(one.names)}", f"    promised: {one.promised}", f"    found: {one.found}"]
        lines.append(f"    {one.help}")
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    return "\n".join(lines)
