"""Device lanes of a placement: what each plan puts where, to scale, ties as arcs, and the proposed map beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from tiecheck.placement.map_lookup import key_of
from tiecheck.records.placement import Placement
from tiecheck.render.drawing import CHARACTER, Picture, box, clean, label, shortened
from tiecheck.wording import size

LEFT, ACROSS, LANE, ARCS = 96, 720, 34, 64
"""Room for the names of devices, for all blocks, for a lane, and for the arcs above the lanes."""

TIES = 24
"""Tie groups whose arcs are drawn."""


def device_lanes(placement: Placement) -> Picture | None:
    """Draw the maps of a placement under each other; None where none came out."""
    groups = list(dict.fromkeys(placed.names for plan in placement.plans for placed in plan.placed))[:TIES]
    maps = [
        (f"{'the given map' if plan.tool == 'given' else f'{plan.tool} {plan.version}, {plan.strategy}'}", plan)
        for plan in placement.plans
        if plan.device_map
    ]
    parts: list[str] = []
    top = 0
    for title, plan in maps:
        held, blocks = dict(plan.device_map), dict(plan.blocks)
        for placed in plan.placed:  # members that the map leaves out stand somewhere too
            for name, device in zip(placed.names, placed.devices, strict=True):
                if device is not None and key_of(plan.device_map, name) is None:
                    held[name] = device
                    blocks |= {name: placed.nbytes or 0} if blocks else {}
        drawn, high = _lanes(title, held, blocks, groups, top)
        parts, top = [*parts, *drawn], top + high
    if placement.proposal is not None and placement.proposal.device_map:
        proposal = placement.proposal
        drawn, high = _lanes("the proposed map", proposal.device_map, proposal.blocks, groups, top)
        parts, top = [*parts, *drawn], top + high
    if not parts:
        return None
    return Picture("device maps, and the ties across them", LEFT + ACROSS + 12, top, "".join(parts))


def _lanes(
    title: str,
    device_map: Mapping[str, int | str],
    blocks: Mapping[str, int],
    groups: Iterable[tuple[str, ...]],
    top: int,
) -> tuple[list[str], int]:
    """Return the elements of one map from a height on, and its own height."""
    devices = list(dict.fromkeys(map(str, device_map.values())))
    weights = {key: blocks.get(key, 0) or (0 if blocks else 1) for key in device_map}
    whole = sum(weights.values()) or 1
    scale = "" if blocks else ", not to scale"
    parts = [label(12, top + 16, f"{title}{scale}")]
    middle: dict[str, tuple[float, float, str]] = {}
    x: float = LEFT
    first = top + 24 + ARCS
    for row, device in enumerate(devices):
        parts.append(label(12, first + LANE * row + 18, shortened(device, 10)))
    for key, weight in weights.items():
        y = first + LANE * devices.index(str(device_map[key]))
        wide = ACROSS * weight / whole
        held = f"{key or 'the model'} on {device_map[key]}" + (f", {size(weight)}" if blocks else "")
        parts.append(box(x, y, max(wide - 1, 1), LANE - 8, held))
        if wide > CHARACTER * 5:
            parts.append(label(x + 3, y + 18, shortened(key or "the model", int((wide - 8) / CHARACTER))))
        middle[key] = (x + wide / 2, y, str(device_map[key]))
        x += wide
    for names in groups:
        parts += _arcs(names, middle)
    return parts, 24 + ARCS + LANE * len(devices) + 12


def _arcs(names: tuple[str, ...], middle: Mapping[str, tuple[float, float, str]]) -> list[str]:
    """Return the arcs between the blocks that hold the members of a group; those across devices are lost."""
    held = list(dict.fromkeys(key for name in names if (key := key_of(middle, name)) is not None))
    split = len({middle[key][2] for key in held}) > 1
    style, told = ("lost", "split across devices") if split else ("tied", "together")
    title = f"<title>{clean(', '.join(names[:4]))}: {told}</title>"
    parts = []
    for one, other in pairwise(held):
        (x, y, _), (x2, y2, _) = middle[one], middle[other]
        dash = ' stroke-dasharray="5 3"' if split else ""
        bend = min(y, y2) - ARCS
        parts.append(
            f'<g class="{style}">{title}<path{dash} d="M{x:g} {y:g}C{x:g} {bend:g} {x2:g} {bend:g} {x2:g} {y2:g}"/></g>'
        )
    return parts
