"""The words of tied-memory-counted-twice: by how much, what moved because of it, and the map without that."""

from __future__ import annotations

from tiecheck.facts_placement import Double, Plan
from tiecheck.report import Location
from tiecheck.rules.plans import keyed, written
from tiecheck.rules.wording import listed, size


def more(plan: Plan, worst: Double) -> str:
    """The sum over all places, where there are several."""
    over = sum(double.counted - double.real for double in plan.doubles)
    if len(plan.doubles) == 1:
        return f": {size(over)} too much"
    return f": {size(worst.counted - worst.real)} too much, and {size(over)} over {len(plan.doubles)} places"


def moved(plan: Plan) -> str:
    """What stands elsewhere because of it, and what that costs."""
    if not plan.moved:
        return "The map is what it would be without that."
    first = next(iter(plan.moved.values()))
    there = tuple(module for module, at in plan.moved.items() if at == first)
    rest = len(plan.moved) - len(there)
    away = {now for now, _ in plan.moved.values()}
    cost = (
        "each forward pass reads them from disk"
        if "disk" in away
        else "each forward pass copies them to where it computes"
        if "cpu" in away
        else "the activations change device once more"
    )
    others = f", and {rest} more modules elsewhere" if rest else ""
    stand = "stands" if len(there) == 1 else "stand"
    return f"Because of it {listed(there)} {stand} on {first[0]} instead of {first[1]}{others}: {cost}."


def counts(plan: Plan, worst: Double) -> tuple[Location, ...]:
    """The bytes counted and real, and the first modules that moved."""
    path = f"{plan.tool} {plan.version}, {plan.strategy}"
    note = f"{worst.module} on {worst.device}: {worst.counted:,} bytes counted, {worst.real:,} real"
    places = [Location(path, None, None, "primary", note)]
    for module, (now, then) in list(plan.moved.items())[:3]:
        places.append(Location(path, None, None, "related", f"{module}: {now} instead of {then}"))
    return tuple(places)


def allow(plan: Plan, worst: Double) -> str:
    """The map without the double count, or how much more to allow."""
    if not plan.moved:
        return "Nothing has to be done; the memory that is left free is that much larger than the plan says."
    instead = {module: then for module, (_, then) in plan.moved.items()}
    if all(module in plan.device_map for module in instead):
        whole = {**plan.device_map, **{module: keyed(device) for module, device in instead.items()}}
        return f"Pass the map that the planner would have made: device_map={written(whole, tuple(instead))}."
    moves = listed(tuple(f"{module} on {then}" for module, then in instead.items()))
    over = sum(double.counted - double.real for double in plan.doubles if double.device == worst.device)
    return f"Pass the map yourself, with {moves}; or allow {size(over)} more on {worst.device} in max_memory."
