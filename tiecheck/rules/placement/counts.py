"""TIE503: tied memory that a planner counts more than once, and what it places elsewhere because of that."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.placement import Device, Double, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    device_key,
    hurt_by_plans,
    is_aside,
    plan_title,
    tool_place,
    unfollowed_words,
    written_map,
)
from tiecheck.wording import listed, size

SLOWER = ("cpu", "disk")
"""The devices that are worse than a GPU, the worst last."""


class TiedMemoryCountedTwice(Rule):
    """A planner counts tied memory more than once, and leaves room that nothing will take.

    ## What it does
    Notes where a planner counted more bytes for a module and what is tied to it than they take: accelerate adds a
    tied module once for every parameter that it shares. Where the plan would be another without that, and modules
    stand on the CPU, on disk or on another GPU because of it, it is a warning.

    ## Why it is bad
    A device is taken for full that is not. What could have stayed on the GPU is offloaded, and every forward pass pays
    for moving it back; or a model that fits is refused.

    ## How to mend it
    Give the map yourself, or allow the planner as much more on that device as it counts too much.
    """

    code = "TIE503"
    name = "tied-memory-counted-twice"
    summary = "a planner counts tied memory more than once, and may place modules elsewhere because of it"
    severity = "warning"
    threads = ("huggingface/accelerate#2330", "pytorch/torchtitan#3225")

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for plan in placement.plans:
            worst = max(plan.doubles, key=lambda double: double.counted - double.real, default=None)
            if worst is None or worst.counted <= worst.real:
                continue
            names = tuple(sorted({name for double in plan.doubles for name in double.names}))
            lost = _moved_for_worse(plan)
            quiet = not lost or is_aside(plan, placement)
            yield Draft(
                f"{plan_title(plan)} counts {size(worst.counted)} on {worst.device} for {worst.module} and what is "
                f"tied to "
                f"it by {listed(worst.names)}, which take {size(worst.real)}{_total_excess(plan, worst)}. "
                f"{_moved_words(plan)}{unfollowed_words(plan, placement) if lost else ''}",
                names,
                _locations(plan, worst),
                _help(plan, worst),
                severity="info" if quiet else None,
                hurts=hurt_by_plans((plan,), names) if lost else None,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.placement.cases import plain_placement, plain_plan

        names = ("model.layers.0.k.weight", "model.layers.1.k.weight")
        double = Double("model.layers.0", "cuda:0", names, 21888, 12544)
        away = {"model.norm": ("cpu", "cuda:0")}
        counted = plain_plan("accelerate", doubles=(double,))
        yield Case("nothing comes of it", {"placement": plain_placement(counted)}, finds=("info",))
        pushed = counted._replace(moved=away)
        yield Case("a module goes to the CPU", {"placement": plain_placement(pushed)}, finds=("warning",))
        yield Case(
            "in the plan that is not followed", {"placement": plain_placement(plain_plan(), pushed)}, finds=("info",)
        )
        next_one = counted._replace(moved={"model.norm": ("cuda:1", "cuda:0")})
        yield Case("a module goes to another GPU", {"placement": plain_placement(next_one)}, finds=("warning",))
        better = counted._replace(moved={"model.norm": ("cuda:0", "cpu")})
        yield Case("a module stays on the GPU", {"placement": plain_placement(better)}, finds=("info",))
        yield Case("counted once", {"placement": plain_placement()})
        right = counted._replace(doubles=(double._replace(counted=12544),))
        yield Case("counted as much as it takes", {"placement": plain_placement(right)})


def _total_excess(plan: Plan, worst: Double) -> str:
    """Return the sum over all places, where there are several."""
    over = sum(double.counted - double.real for double in plan.doubles)
    if len(plan.doubles) == 1:
        return f": {size(over)} too much"
    return f": {size(worst.counted - worst.real)} too much, and {size(over)} over {len(plan.doubles)} places"


def _moved_for_worse(plan: Plan) -> dict[str, tuple[Device, Device]]:
    """Return the modules that the double count moved to a slower device, or to another GPU.

    It may also move one the other way: accelerate 1.15 takes the next module apart sooner, and its pieces fit.
    """
    return {module: at for module, at in plan.moved.items() if _rank(at[0]) > _rank(at[1]) or not any(map(_rank, at))}


def _rank(device: Device) -> int:
    return SLOWER.index(device) + 1 if device in SLOWER else 0


def _moved_words(plan: Plan) -> str:
    """Return what stands elsewhere because of it, and what that costs."""
    if not plan.moved:
        return "The map is what it would be without that."
    lost = _moved_for_worse(plan)
    named = lost or dict(plan.moved)
    first = next(iter(named.values()))
    there = tuple(module for module, at in named.items() if at == first)
    rest = len(plan.moved) - len(there)
    others = f", and {rest} more {'module' if rest == 1 else 'modules'} elsewhere" if rest else ""
    stand = "stands" if len(there) == 1 else "stand"
    cost = _cost({now for now, _ in lost.values()})
    return f"Because of it {listed(there)} {stand} on {first[0]} instead of {first[1]}{others}: {cost}."


def _cost(away: set[Device]) -> str:
    """Return what it costs that something stands on some devices."""
    if "disk" in away:
        return "each forward pass reads from disk what would fit in memory"
    if "cpu" in away:
        return "each forward pass copies what would have stayed on the device"
    return "the activations cross between GPUs elsewhere" if away else "nothing is lost by it"


def _locations(plan: Plan, worst: Double) -> tuple[Location, ...]:
    """Return the bytes counted and real, and the first modules that moved."""
    note = f"{worst.module} on {worst.device}: {worst.counted:,} bytes counted, {worst.real:,} real"
    moved = [f"{module}: {now} instead of {then}" for module, (now, then) in plan.moved.items()][:3]
    return (tool_place(plan, note), *(tool_place(plan, text, "related") for text in moved))


def _help(plan: Plan, worst: Double) -> str:
    """Return the map without the double count, or how much more to allow."""
    if not _moved_for_worse(plan):
        return "Nothing has to be done; the memory that is left free is that much larger than the plan says."
    instead = {module: then for module, (_, then) in plan.moved.items()}
    if all(module in plan.device_map for module in instead):
        whole = {**plan.device_map, **{module: device_key(device) for module, device in instead.items()}}
        return f"Pass the map that the planner would have made: device_map={written_map(whole, tuple(instead))}."
    moves = listed(tuple(f"{module} on {then}" for module, then in instead.items()))
    over = sum(double.counted - double.real for double in plan.doubles if double.device == worst.device)
    return f"Pass the map yourself, with {moves}; or allow {size(over)} more on {worst.device} in max_memory."
