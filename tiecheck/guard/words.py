"""The words of the gate: why a load will hurt, and what a loaded model does not keep."""

from __future__ import annotations

import pprint
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tiecheck.placement.promises import sound
from tiecheck.records.placement import Placed, Placement
from tiecheck.records.promises import Broken
from tiecheck.records.report import Finding, TargetReport
from tiecheck.wording import listed, size

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 8
"""Findings, broken promises and lines of a map that a message shows."""


def hurting_text(target: TargetReport, hurting: Sequence[Finding], placement: Placement) -> str:
    """Why loading a target under a map hurts: codes, groups, devices, mends.

    Args:
        target: The target.
        hurting: What was found.
        placement: Its plans.
    """
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
    """Where the first plan puts the members that a finding is about, where it parts them."""
    groups: tuple[Placed, ...] = placement.plans[0].placed if placement.plans else ()
    for group in groups:
        if set(finding.names) >= set(group.names) and len(set(group.devices)) > 1:
            pairs = zip(group.names[:SHOWN], group.devices, strict=False)
            yield ", ".join(f"{name} on {device or 'no device'}" for name, device in pairs)


def _proposed(placement: Placement) -> list[str]:
    """The map that works, or why there is none."""
    proposal = placement.proposal
    if proposal is None or sound(placement):
        return []
    if not proposal.device_map:
        return [f"  no map keeps them together: {proposal.reason}; {size(proposal.lacks)} are missing"]
    text = pprint.pformat(dict(proposal.device_map), sort_dicts=False, compact=True, width=100).splitlines()
    rest = len(text) - SHOWN
    more = [f"    and {rest} more lines: `device_map` of this error has them all"] if rest > 0 else []
    note = f" ({proposal.reason})" if proposal.reason else ""
    return [f"  this device_map keeps them together{note}:", *[f"    {line}" for line in text[:SHOWN]], *more]


def broken_text(model: str, broken: Sequence[Broken]) -> str:
    """What a model does not keep of what was promised.

    Args:
        model: Its class.
        broken: The broken promises, one or more.
    """
    lines = [f"{model} was not loaded as promised"]
    for one in broken[:SHOWN]:
        lines += [f"  {listed(one.names)}", f"    promised: {one.promised}", f"    found: {one.found}"]
        lines.append(f"    {one.help}")
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    return "\n".join(lines)
