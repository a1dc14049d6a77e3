"""From a report to what it promises: the map to load with, and for each tie group where it will lie and as what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tiecheck.placement.map_lookup import by_accelerate
from tiecheck.records.placement import Placement, Plan, Promise
from tiecheck.records.words import TIED

if TYPE_CHECKING:
    from tiecheck.records.report import TargetReport

HURTS = frozenset({"raises", "overwrites", "untied"})
"""Forms of a load that break a group (`LoadForm`); to hold it twice costs memory alone."""


def is_sound(placement: Placement) -> bool:
    """Return whether the plan that the natural loader follows keeps every group together and loads it."""
    if not placement.plans or not placement.plans[0].device_map:
        return False
    apart = any(len(set(group.devices)) > 1 or None in group.devices for group in placement.plans[0].placed)
    return not apart and not any(load.form in HURTS and not load.harmless for load in placement.loads)


def chosen_map(placement: Placement) -> dict[str, int | str]:
    """Return the map to load with: the tool's own where it is sound, else the proposal; empty where there is neither.

    A plan that is not sound stands where nothing better is known.
    """
    own: Mapping[str, int | str] = placement.plans[0].device_map if placement.plans else {}
    if is_sound(placement) or placement.proposal is None or not placement.proposal.device_map:
        return dict(own)
    return dict(placement.proposal.device_map)


def promises_of(target: TargetReport, device_map: Mapping[str, int | str]) -> tuple[Promise, ...]:
    """Return one promise of a load under a map for each group that is tied in the module, or that the load will tie."""
    placement = target.placement
    if placement is None:
        return ()
    plan = next((one for one in placement.plans if one.placed), None)
    found = []
    for group in plan.placed if isinstance(plan, Plan) else ():
        if group.kind in TIED or (group.declared and target.type != "module"):
            devices = tuple(by_accelerate(device_map, name) for name in group.names)
            found.append(Promise(group.names, devices))
    return tuple(found)
