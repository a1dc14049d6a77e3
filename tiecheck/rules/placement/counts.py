"""TIE503: tied memory that a planner counts more than once, and what it places elsewhere because of that."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.placement import Device, Double, Placement, Plan
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    device_key,
    hurt_by_plans,
    is_aside,
    plain_placement,
    plain_plan,
    plan_title,
    tool_place,
    unfollowed_words,
    whole_map,
)
from tiecheck.wording import listed, size

COSTS = {
    "disk": "each forward pass reads from disk what would fit in memory",
    "cpu": "each forward pass copies what would have stayed on the device",
}
"""Cost of a module on a device that is slower than a GPU, the slowest first."""


class TiedMemoryCountedTwice(Rule):
    """A planner counts tied memory more than once, and leaves room that nothing will take.

    ## What it does
    Notes where a planner counted more bytes for a module and what is tied to it than they take: accelerate adds a
    tied module once for every parameter that it shares. Where the plan would be another without that, and modules
    stand on the CPU, on disk or on another GPU because of it, it is a warning.

    ## Why it is bad
    A device is taken for full that is not. What could have stayed on the GPU is offloaded, and every forward pass pays
    for moving it back; or a model that fits is refused.

    ## How to fix it
    Give the map yourself, or raise `max_memory` of that device by what is counted twice.
    """

    code = "TIE503"
    summary = "a planner counts tied memory more than once, and may place modules elsewhere because of it"
    severity = "warning"
    threads = "huggingface/accelerate#2330 pytorch/torchtitan#3225"

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for plan in placement.plans:
            worst = max(plan.doubles, key=lambda double: double.counted - double.real, default=None)
            if worst is None or worst.counted <= worst.real:
                continue
            names = tuple(sorted({name for double in plan.doubles for name in double.names}))
            lost = {module: at for module, at in plan.moved.items() if _is_worse(*at)}
            over = sum(double.counted - double.real for double in plan.doubles)
            every = f", and {size(over)} over {len(plan.doubles)} places" if len(plan.doubles) > 1 else ""
            moved = [f"{module}: {now} instead of {then}" for module, (now, then) in plan.moved.items()][:3]
            note = f"{worst.module} on {worst.device}: {worst.counted:,} bytes counted, {worst.real:,} real"
            yield Draft(
                f"{plan_title(plan)} counts {size(worst.counted)} on {worst.device} for {worst.module} and what is "
                f"tied to it by {listed(worst.names)}, which take {size(worst.real)}: "
                f"{size(worst.counted - worst.real)} too much{every}. {_moved_words(plan, lost)}"
                f"{unfollowed_words(plan, placement) if lost else ''}",
                names,
                (tool_place(plan, note), *(tool_place(plan, text, "related") for text in moved)),
                "" if lost else "More memory is left free than the plan says.",
                severity="info" if not lost or is_aside(plan, placement) else None,
                hurts=hurt_by_plans((plan,), names) if lost else None,
                edits=_uncounted(plan) if lost else (),
                no_mend="nothing is wrong.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        names = ("model.layers.0.k.weight", "model.layers.1.k.weight")
        double = Double("model.layers.0", "cuda:0", names, 21888, 12544)
        counted = plain_plan("accelerate", doubles=(double,))
        yield Case("nothing comes of it", {"placement": plain_placement(counted)}, finds=("info",))
        pushed = counted._replace(moved={"model.norm": ("cpu", "cuda:0")})
        yield Case("a module goes to the CPU", {"placement": plain_placement(pushed)}, finds=("warning",))
        aside = {"placement": plain_placement(plain_plan(), pushed)}
        yield Case("in the plan that is not followed", aside, finds=("info",))
        next_one = counted._replace(moved={"model.norm": ("cuda:1", "cuda:0")})
        yield Case("a module goes to another GPU", {"placement": plain_placement(next_one)}, finds=("warning",))
        better = counted._replace(moved={"model.norm": ("cuda:0", "cpu")})
        yield Case("a module stays on the GPU", {"placement": plain_placement(better)}, finds=("info",))
        yield Case("counted once", {"placement": plain_placement()})
        right = counted._replace(doubles=(double._replace(counted=12544),))
        yield Case("counted as much as it takes", {"placement": plain_placement(right)})


def _is_worse(now: Device, then: Device) -> bool:
    """Tell whether a module was moved to a slower device, or to another GPU.

    It may also move the other way: accelerate 1.15 takes the next module apart sooner, and its pieces fit.
    """
    slow = ("cpu", "disk")
    if now in slow:
        return then not in slow or slow.index(now) > slow.index(then)
    return then not in slow


def _moved_words(plan: Plan, lost: dict[str, tuple[Device, Device]]) -> str:
    """Return what stands elsewhere because of it, and what that costs."""
    if not plan.moved:
        return "The map is what it would be without that."
    first = next(iter((lost or plan.moved).values()))
    there = tuple(module for module, at in plan.moved.items() if at == first)
    rest = len(plan.moved) - len(there)
    others = f", and {rest} more {'module' if rest == 1 else 'modules'} elsewhere" if rest else ""
    away = {now for now, _ in lost.values()}
    cost = next((words for device, words in COSTS.items() if device in away), "the activations cross between GPUs")
    return (
        f"Because of it {listed(there)} {'stands' if len(there) == 1 else 'stand'} on {first[0]} instead of "
        f"{first[1]}{others}: {cost if lost else 'nothing is lost by it'}."
    )


def _uncounted(plan: Plan) -> tuple[Edit, ...]:
    """Return the map without the double count, or how much more to allow."""
    instead = {module: then for module, (_, then) in plan.moved.items()}
    if all(module in plan.device_map for module in instead):
        return (whole_map({**plan.device_map, **{module: device_key(device) for module, device in instead.items()}}),)
    over: dict[Device, int] = {}
    for double in plan.doubles:
        over[double.device] = over.get(double.device, 0) + max(0, double.counted - double.real)
    lines = (f"max_memory[{device_key(device)!r}] += {more}" for device, more in over.items() if more)
    return (python_edit("allowed", None, *lines),)
