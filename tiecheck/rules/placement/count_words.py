"""The words of tied-memory-counted-twice: by how much, what moved because of it, and the map without that."""

from __future__ import annotations

from tiecheck.records.placement import Device, Double, Plan
from tiecheck.records.report import Location
from tiecheck.rules.placement.plans import keyed, written
from tiecheck.wording import listed, size


def more(plan: Plan, worst: Double) -> str:
    """The sum over all places, where there are several."""
    over = sum(double.counted - double.real for double in plan.doubles)
    if len(plan.doubles) == 1:
        return f": {size(over)} too much"
    return f": {size(worst.counted - worst.real)} too much, and {size(over)} over {len(plan.doubles)} places"


SLOWER = ("cpu", "disk")
"""The devices that are worse than a GPU, the worst last."""


def worse(plan: Plan) -> dict[str, tuple[Device, Device]]:
    """The modules that the double count moved to a slower device, or to another GPU.

    It may also move one the other way: accelerate 1.15 takes the next module apart sooner, and its pieces fit.
    """
    return {module: at for module, at in plan.moved.items() if _rank(at[0]) > _rank(at[1]) or not any(map(_rank, at))}


def _rank(device: Device) -> int:
    return SLOWER.index(device) + 1 if device in SLOWER else 0


def moved(plan: Plan) -> str:
    """What stands elsewhere because of it, and what that costs."""
    if not plan.moved:
        return "The map is what it would be without that."
    lost = worse(plan)
    named = lost or dict(plan.moved)
    first = next(iter(named.values()))
    there = tuple(module for module, at in named.items() if at == first)
    rest = len(plan.moved) - len(there)
    others = f", and {rest} more {'module' if rest == 1 else 'modules'} elsewhere" if rest else ""
    stand = "stands" if len(there) == 1 else "stand"
    cost = _cost({now for now, _ in lost.values()})
    return f"Because of it {listed(there)} {stand} on {first[0]} instead of {first[1]}{others}: {cost}."


def _cost(away: set[Device]) -> str:
    """What it costs that something stands on some devices."""
    if "disk" in away:
        return "each forward pass reads from disk what would fit in memory"
    if "cpu" in away:
        return "each forward pass copies what would have stayed on the device"
    return "the activations cross between GPUs elsewhere" if away else "nothing is lost by it"


def counts(plan: Plan, worst: Double) -> tuple[Location, ...]:
    """The bytes counted and real, and the first modules that moved."""
    path = f"{plan.tool} {plan.version}, {plan.strategy}"
    note = f"{worst.module} on {worst.device}: {worst.counted:,} bytes counted, {worst.real:,} real"
    places = [Location(path, None, None, "primary", note, "tool")]
    for module, (now, then) in list(plan.moved.items())[:3]:
        places.append(Location(path, None, None, "related", f"{module}: {now} instead of {then}", "tool"))
    return tuple(places)


def allow(plan: Plan, worst: Double) -> str:
    """The map without the double count, or how much more to allow."""
    if not worse(plan):
        return "Nothing has to be done; the memory that is left free is that much larger than the plan says."
    instead = {module: then for module, (_, then) in plan.moved.items()}
    if all(module in plan.device_map for module in instead):
        whole = {**plan.device_map, **{module: keyed(device) for module, device in instead.items()}}
        return f"Pass the map that the planner would have made: device_map={written(whole, tuple(instead))}."
    moves = listed(tuple(f"{module} on {then}" for module, then in instead.items()))
    over = sum(double.counted - double.real for double in plan.doubles if double.device == worst.device)
    return f"Pass the map yourself, with {moves}; or allow {size(over)} more on {worst.device} in max_memory."
