"""The words and questions that the rules on placement share: whose plan it is, whom it hurts, what is split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tiecheck.peers.loaders.accelerate import FINDERS
from tiecheck.records.live import DeclaredTie, LiveClass
from tiecheck.records.loaders import LoaderView
from tiecheck.records.placement import Device, Placed, Placement, Plan
from tiecheck.records.report import Location, Severity
from tiecheck.records.words import TIED, UNTIED
from tiecheck.rules.base import Role
from tiecheck.wording import listed


class Loading(NamedTuple):
    """Who loads the target, and what becomes one tensor by that."""

    loader: str
    """The natural loader: `transformers` (`from_pretrained`) or `accelerate`."""
    broken: tuple[tuple[str, ...], ...]
    """The groups that a class declares, that are different parameters, and that are not stored apart."""

    def tool(self, plan: Plan) -> str:
        """Return who loads the model under a plan; under a given map that is the natural loader."""
        return self.loader if plan.tool == "given" else plan.tool

    def binds(self, group: Placed, plan: Plan) -> bool:
        """Tell whether the names of a group are one tensor once the model is loaded as the plan means it.

        accelerate ties nothing that is not tied, and `from_pretrained` leaves apart what is stored apart (5.23).
        """
        return group.kind in TIED or (self.tool(plan) == "transformers" and group.names in self.broken)


def loading_of(placement: Placement, live_class: LiveClass, declared_ties: Iterable[DeclaredTie]) -> Loading:
    """Return who loads the target: the first plan is its own.

    A given map says nothing: then it is `from_pretrained` for a class of transformers that was built from a directory,
    and else accelerate, which is what takes a map for a module that is there. A group of the user's own contract is not
    broken: no tool hears of it, and no load ties it.
    """
    first = placement.plans[0].tool if placement.plans else "given"
    if first == "given":
        built = live_class.library is not None and live_class.origin != "given"
        first = "transformers" if built else "accelerate"
    found = (claim for claim in declared_ties if claim.kind in UNTIED and claim.stored != "separate")
    return Loading(first, tuple(claim.names for claim in found if by_class(claim)))


def by_class(claim: DeclaredTie) -> bool:
    """Tell whether a class of transformers declares a group, so that `from_pretrained` and `tie_weights` tie it."""
    return any(word.endswith("._tied_weights_keys") for word in claim.by)


def plan_title(plan: Plan) -> str:
    """Return a plan in a sentence: `accelerate 1.15.0's plan`, `the given map`."""
    return "the given map" if plan.tool == "given" else f"{plan.tool} {plan.version}'s plan"


def is_aside(plan: Plan, placement: Placement) -> bool:
    """Tell whether a plan is another than the natural loader's, so that nobody may ever follow it."""
    return bool(placement.plans) and plan.tool != placement.plans[0].tool


def plan_severity(plans: Iterable[Plan], placement: Placement) -> Severity | None:
    """Return the rule's own severity where the natural loader follows one of some plans, and else a warning."""
    return "warning" if all(is_aside(plan, placement) for plan in plans) else None


def unfollowed_words(plan: Plan, placement: Placement) -> str:
    """Return who meets a defect of a plan that the natural loader does not follow; empty for its own."""
    if not is_aside(plan, placement):
        return ""
    if plan.tool == "accelerate":
        return (
            " from_pretrained makes its own plan and does not meet this; code that calls accelerate's functions does."
        )
    return " accelerate's functions do not meet this; from_pretrained of this class does."


def hurt_by_plans(plans: Iterable[Plan], names: tuple[str, ...]) -> tuple[LoaderView, ...] | None:
    """Return the loaders that follow some plans; None where one is a given map, which hurts whoever follows it."""
    views = []
    for plan in plans:
        if plan.tool == "given":
            return None
        versions = "5" if plan.tool == "transformers" else _range(plan.version)
        views.append(LoaderView(plan.tool, versions, "unknown", None, "run", names, None, None, None))
    return tuple(views)


def _range(version: str) -> str:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return next(one.versions for one in FINDERS if one.until is None or numbers < one.until)


def tool_place(plan: Plan, note: str, role: Role = "primary") -> Location:
    """Return a planner's plan as evidence."""
    return Location(f"{plan.tool} {plan.version}, {plan.strategy}", None, None, role, note, "tool")


def is_split(group: Placed) -> bool:
    """Tell whether the names lie on different devices; names that the map does not place count as nowhere."""
    return len(set(group.devices) - {None}) > 1


def devices_words(names: tuple[str, ...], devices: tuple[Device | None, ...]) -> str:
    """Return each name with its device: `lm_head.weight on cuda:1 and model.embed_tokens.weight on cuda:0`."""
    return listed(tuple(f"{name} on {device}" for name, device in zip(names, devices, strict=True) if device))


def device_key(device: Device) -> int | str:
    """Return a device as a map of accelerate has it: `cuda:0` is `0`, since it takes the two for different devices."""
    kind, _, number = device.partition(":")
    return int(number) if kind == "cuda" and number.isdecimal() else device
