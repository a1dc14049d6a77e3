"""TIE508 and 509: planners that raise over a tie, and plans that another hash seed changes."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.placement import Crash, Placement, Plan, Seeds
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    hurt_by_plans,
    is_aside,
    is_split,
    map_edits,
    map_words,
    plain_placement,
    plain_plan,
    plain_proposal,
    plan_severity,
    plan_title,
    tool_place,
    unfollowed_words,
    whole_map,
)
from tiecheck.wording import listed

WRONG = {
    "substring": "It looks for a module's name anywhere inside the tied names, as head. in lm_head.weight., takes one "
    "that is outside of the module for a part of it, and finds that module gone when the other is due.",
    "sibling": "They are one module under several paths, of which named_children() lists the first: it looks for the "
    "other among the modules to place.",
    "root": "It looks for the module that holds each, and one of them is a parameter of the model itself, or of a "
    "module that was taken apart.",
}
"""Cause -> what the planners of accelerate 1.15 and transformers 5.23 do wrong."""


class PlannerWillCrash(Rule):
    """The installed planner raises on this model because of a tie.

    ## What it does
    Runs the planners of accelerate and transformers on the model, and says which raises, over which names, and why:
    they look for `head.` anywhere inside a tied name and find it in `lm_head.weight`; they look for the second path of
    a module that is registered twice, which `named_children()` does not list; or for the module of a parameter that
    stands by itself.

    ## Why it is bad
    `device_map="auto"` ends with `IndexError: list index out of range`, which names neither the tie nor a module.

    ## How to fix it
    Pass a device map that was made elsewhere: a given map never meets the planner. Or change the class: the order of
    the two modules, a name, or a layer of its own instead of an alias.
    """

    code = "TIE508"
    summary = 'device_map="auto" raises on this model because of a tie, and over which names'
    severity = "error"
    messages = ("IndexError: list index out of range",)
    threads = (
        "huggingface/accelerate#958 huggingface/accelerate#1510 huggingface/accelerate#3308 "
        "huggingface/transformers#35824 huggingface/transformers#46566"
    )

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        found: dict[tuple[str, ...], list[tuple[Plan, Crash]]] = {}
        for plan in placement.plans:
            if plan.crash is not None:
                found.setdefault(plan.crash.names, []).append((plan, plan.crash))
        for names, at in found.items():
            plan, crash = at[0]
            plans = [one for one, _ in at]
            early = crash.cause == "other" and not names and not crash.error.startswith("IndexError")
            severity = plan_severity(plans, placement)
            place = f" at {crash.module}" if crash.module else ""
            over = f" over {listed(names)}" if names else ""
            why = f" {WRONG[crash.cause]}" if crash.cause in WRONG else ""
            evidence = (
                tool_place(one, other.error, "related" if i else "primary") for i, (one, other) in enumerate(at)
            )
            yield Draft(
                f"The planner of {' and '.join(f'{one.tool} {one.version}' for one in plans)} raises "
                f'"{crash.error}"{place}{over}.{why}{unfollowed_words(plan, placement)}',
                names or (crash.module or "the model",),
                tuple(evidence),
                "" if early else _known_limits(crash, placement),
                severity="info" if early and severity is not None else severity,  # another tool's, and over no tie
                hurts=hurt_by_plans(plans, names),
                edits=_unplanned(placement, early=early),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        index = "IndexError: list index out of range"
        inside = Crash(index, "substring", "lm_head", ("head.weight", "lm_head.weight"))
        raising = plain_plan("accelerate", device_map={}, placed=(), crash=inside)
        yield Case("head in lm_head", {"placement": plain_placement(raising)}, finds=("error",))
        fits = plain_placement(raising, proposal=plain_proposal())
        yield Case("and a map that works", {"placement": fits}, finds=("error",))
        aside = {"placement": plain_placement(plain_plan(), raising)}
        yield Case("in accelerate only, of a class of transformers", aside, finds=("warning",))
        both = plain_placement(plain_plan("transformers", device_map={}, placed=(), crash=inside), raising)
        yield Case("both planners", {"placement": both}, finds=("error",))
        other = raising._replace(crash=Crash("ValueError: max_memory has no cpu", "other", "", ()))
        yield Case("something else", {"placement": plain_placement(other)}, finds=("error",))
        yield Case("and of another tool", {"placement": plain_placement(plain_plan(), other)}, finds=("info",))
        yield Case("both come to an end", {"placement": plain_placement()})
        yield Case("a given map meets no planner", {"placement": plain_placement(plain_plan("given"))})


def _known_limits(crash: Crash, placement: Placement) -> str:
    """Return what to know of the map that needs no planner."""
    warns = crash.cause == "sibling" and placement.proposal is not None and len(placement.proposal.device_map) > 1
    more = "accelerate then warns that the key of the second path matches no submodule, which is harmless."
    return " ".join(filter(None, (map_words(placement), more if warns else "")))


def _unplanned(placement: Placement, *, early: bool) -> tuple[Edit, ...]:
    """Return what works with this release: a map made elsewhere, which meets no planner."""
    if early and "disk" in (placement.memory or {}):  # accelerate balances only devices that torch knows
        return (python_edit("placed", None, 'del max_memory["disk"]'),)
    return map_edits(placement) or (whole_map({"": 0}, "all of it fits on one device"),)


class PlanDependsOnHashSeed(Rule):
    """The same model, memory and versions give another device map in the next process.

    ## What it does
    Reports plans that come out differently under several values of PYTHONHASHSEED: which modules move, and under how
    many seeds a tie is split or the planner raises. accelerate from 0.34 on and transformers 5 gather tied names in
    sets, whose order of strings is another in each process; with several ties it decides what is placed first.

    ## Why it is bad
    A job that fits today runs out of memory tomorrow, or raises, or splits a tie, with nothing changed. The ranks of
    one job may each make another map.

    ## How to fix it
    Give the map explicitly, or set PYTHONHASHSEED before Python starts.
    """

    code = "TIE509"
    summary = "the planned device map differs from process to process, with the hash seed"
    severity = "warning"

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for plan in placement.plans:
            seeds = plan.seeds
            if seeds is None or seeds.crashes == seeds.tried or (seeds.maps < 2 and not seeds.crashes):
                continue
            tied = {name for group in plan.placed for name in group.names}
            within = {name for name in tied if any(name.startswith(f"{module}.") for module in seeds.moving)}
            crashed = plan.crash.names if plan.crash else ()
            names = tuple(sorted(within or tied)) or crashed or seeds.moving or ("the model",)
            stand = "stands" if len(seeds.moving) == 1 else "stand"
            moving = f" {listed(seeds.moving)} {stand} elsewhere from one process to the next." if seeds.moving else ""
            yield Draft(
                f"{plan_title(plan)} depends on the hash seed: {_outcomes(seeds)}.{moving}"
                f"{unfollowed_words(plan, placement)}",
                names,
                (tool_place(plan, _outcomes(seeds)),),
                "PYTHONHASHSEED=0 in the environment makes every process plan alike, whatever the plan.",
                severity="info" if is_aside(plan, placement) else None,
                hurts=hurt_by_plans((plan,), names),
                edits=_fixed_map(plan, placement),
                no_mend="this plan splits a tie, and another is not known.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        seven = Seeds(tried=8, maps=7, moving=("model.layers.0", "model.layers.1"), splits=0, crashes=0)
        wavers = plain_plan("accelerate", seeds=seven)
        yield Case("seven maps in eight seeds", {"placement": plain_placement(wavers)}, finds=("warning",))
        yield Case("of a plan not followed", {"placement": plain_placement(plain_plan(), wavers)}, finds=("info",))
        some = wavers._replace(seeds=seven._replace(maps=1, moving=(), splits=2, crashes=3))
        yield Case("it splits a tie or raises under some", {"placement": plain_placement(some)}, finds=("warning",))
        always = wavers._replace(seeds=Seeds(8, 0, (), 0, 8))
        yield Case("it raises under all: TIE508", {"placement": plain_placement(always)})
        yield Case("one map", {"placement": plain_placement(wavers._replace(seeds=Seeds(8, 1, (), 0, 0)))})
        yield Case("nobody asked", {"placement": plain_placement()})


def _outcomes(seeds: Seeds) -> str:
    """Return what came out of how many seeds."""
    splits = f", under {seeds.splits} a tie is split" if seeds.splits else ""
    crashes = f", under {seeds.crashes} the planner raises" if seeds.crashes else ""
    return f"{seeds.tried} seeds gave {seeds.maps} different map{'' if seeds.maps == 1 else 's'}{splits}{crashes}"


def _fixed_map(plan: Plan, placement: Placement) -> tuple[Edit, ...]:
    """Return the map to give: the proposed one, or that of this run where it splits no tie."""
    whole = bool(plan.device_map) and not any(is_split(group) for group in plan.placed)
    return map_edits(placement) or ((whole_map(plan.device_map),) if whole else ())
