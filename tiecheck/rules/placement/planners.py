"""TIE508 and 509: planners that raise over a tie, and plans that another hash seed changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tiecheck.records.placement import Crash, Placement, Plan, Seeds
from tiecheck.records.report import Location, Severity
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.plans import (
    hurt_by_plans,
    is_aside,
    is_split,
    plan_severity,
    plan_title,
    proposal_words,
    tool_place,
    unfollowed_words,
    written_map,
)
from tiecheck.wording import listed


class PlannerWillCrash(Rule):
    """The installed planner raises on this model because of a tie.

    ## What it does
    Runs the planners of accelerate and transformers on the model, and says which raises, over which names, and why:
    they look for `head.` anywhere inside a tied name and find it in `lm_head.weight`; they look for the second path of
    a module that is registered twice, which `named_children()` does not list; or for the module of a parameter that
    stands by itself.

    ## Why it is bad
    `device_map="auto"` ends with `IndexError: list index out of range`, which names neither the tie nor a module.

    ## How to mend it
    Pass a device map that was made elsewhere: a given map never meets the planner. Or change the class: the order of
    the two modules, a name, or a layer of its own instead of an alias.
    """

    code = "TIE508"
    name = "planner-will-crash"
    summary = 'device_map="auto" raises on this model because of a tie, and over which names'
    severity = "error"
    messages = ("IndexError: list index out of range",)
    threads = (
        "huggingface/accelerate#958",
        "huggingface/accelerate#1510",
        "huggingface/accelerate#3308",
        "huggingface/transformers#35824",
        "huggingface/transformers#46566",
    )

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        found: dict[tuple[str, ...], list[tuple[Plan, Crash]]] = {}
        for plan in placement.plans:
            if plan.crash is not None:
                found.setdefault(plan.crash.names, []).append((plan, plan.crash))
        for names, at in found.items():
            (plan, crash), *others = at
            plans = [one for one, _ in at]
            tools = " and ".join(f"{one.tool} {one.version}" for one in plans)
            verb = "raises" if not others else "raise"
            yield Draft(
                f"The planner of {tools} {verb} "
                f'"{crash.error}".{_cause_words(crash)}{unfollowed_words(plan, placement)}',
                names or (crash.module or "the model",),
                tuple(_raises(one, other, "related" if i else "primary") for i, (one, other) in enumerate(at)),
                _help(crash, placement),
                severity=_mildly(crash, plan_severity(plans, placement)),
                hurts=hurt_by_plans(plans, names),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.placement.cases import plain_placement, plain_plan, plain_proposal

        index = "IndexError: list index out of range"
        inside = Crash(index, "substring", "lm_head", ("head.weight", "lm_head.weight"))
        raising = plain_plan("accelerate", device_map={}, placed=(), crash=inside)
        yield Case("head in lm_head", {"placement": plain_placement(raising)}, finds=("error",))
        fits = plain_placement(raising, proposal=plain_proposal())
        yield Case("and a map that works", {"placement": fits}, finds=("error",))
        yield Case(
            "in accelerate only, of a class of transformers",
            {"placement": plain_placement(plain_plan(), raising)},
            ("warning",),
        )
        both = plain_placement(plain_plan("transformers", device_map={}, placed=(), crash=inside), raising)
        yield Case("both planners", {"placement": both}, finds=("error",))
        siblings = inside._replace(cause="sibling", module="wte", names=("ff_out.weight", "wte.weight"))
        alias = raising._replace(crash=siblings)
        yield Case("an alias among siblings", {"placement": plain_placement(alias)}, finds=("error",))
        root = raising._replace(crash=inside._replace(cause="root", names=("v", "w"), module="w"))
        yield Case("two names on the root", {"placement": plain_placement(root)}, finds=("error",))
        text = "ValueError: max_memory has no cpu"
        other = raising._replace(crash=Crash(text, "other", "", ()))
        yield Case("something else", {"placement": plain_placement(other)}, finds=("error",))
        yield Case("both come to an end", {"placement": plain_placement()})
        yield Case("a given map meets no planner", {"placement": plain_placement(plain_plan("given"))})


def _mildly(crash: Crash, said: Severity | None) -> Severity | None:
    """Return a note where another tool's planner raises for a reason that is no tie's."""
    return "info" if said is not None and _raised_before_placing(crash) else said


def _raises(plan: Plan, crash: Crash, role: Literal["primary", "related"]) -> Location:
    """Where a planner raises, as evidence."""
    at = f" at {crash.module}" if crash.module else ""
    return tool_place(plan, f"{crash.error}{at}", role)


def _mistaken_name(names: tuple[str, ...]) -> tuple[str, str] | None:
    """Return a module and a tied name outside of it that the planner takes for contained in it.

    accelerate 1.15 and transformers 5.23 ask `module + "." in name + "."`, which finds `head.` in `lm_head.weight.`.
    """
    for inside in names:
        for module in _owners(inside):
            for other in names:
                if not other.startswith(module + ".") and module + "." in other + ".":
                    return module, other
    return None


def _owners(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _cause_words(crash: Crash) -> str:
    """Return what the planner does wrong, as sentences; empty where nothing is known beside what it raises."""
    names = listed(crash.names) if crash.names else "the tied names"
    taken = _mistaken_name(crash.names)
    if crash.cause == "substring" and taken is not None:
        module, other = taken
        return (
            f" It looks for {module + '.'!r} anywhere inside the tied names, finds it in {other!r}, and takes that for "
            f"a part of {module}: it places {module} alone, and finds it gone when {other.rpartition('.')[0]} is due."
        )
    if crash.cause == "sibling":
        return (
            f" {names} are one module under several paths, of which named_children() lists the first: the planner "
            "looks for the other among the modules to place, where it never was."
        )
    if crash.cause == "root":
        return (
            f" It looks for the module that holds each of {names}, and one of them is a parameter of the model itself, "
            "or of a module that was taken apart: it is placed by itself, without a module."
        )
    at = f" while it placed {crash.module}" if crash.module else ""
    if crash.names and crash.error.startswith("IndexError"):
        return f" The module of one of {names} was no longer among those to place{at}."
    return f" It came up{at}{f', over {names}' if crash.names else ''}." if at or crash.names else ""


def _raised_before_placing(crash: Crash) -> bool:
    """Return whether it raised for another reason than a tie: nothing was placed yet."""
    return crash.cause == "other" and not crash.names and not crash.error.startswith("IndexError")


def _help(crash: Crash, placement: Placement) -> str:
    """Return what works with this release: a map made elsewhere, and the change of the class for this cause."""
    if _raised_before_placing(crash) and "disk" in (placement.memory or {}):
        return (
            "Leave disk out of max_memory: the disk is used anyhow where nothing else has room. accelerate balances "
            "only devices that torch knows."
        )
    said = proposal_words(placement, crash.names)
    known = placement.proposal.device_map if placement.proposal else {}
    if not known:
        plain = "Pass a device_map ({'': 0} where all fits on one device): a given map needs no planner."
        said = f"{said} {plain}" if said else plain
    alias = ""
    if crash.cause == "sibling" and len(known) > 1:
        alias = " accelerate then warns that the key of the second path matches no submodule, which is harmless."
    return f"{said}{alias}{_change(crash)}"


def _change(crash: Crash) -> str:
    """Return what to change in the class, where that helps."""
    taken = _mistaken_name(crash.names)
    if crash.cause == "substring" and taken is not None:
        module, other = taken
        first = other.rpartition(".")[0] or other
        how = f"register {first} before {module} in __init__, or give one a name that does not end like the other"
    elif crash.cause == "sibling":
        how = "give the second path a layer of its own and assign the weight to it, instead of the module"
    elif crash.cause == "root":
        how = "keep at most one of the tied parameters on the model itself, and the others in submodules"
    else:
        return ""
    return f" Or change the class: {how}."


class PlanDependsOnHashSeed(Rule):
    """The same model, memory and versions give another device map in the next process.

    ## What it does
    Reports plans that come out differently under several values of PYTHONHASHSEED: which modules move, and under how
    many seeds a tie is split or the planner raises. accelerate from 0.34 on and transformers 5 gather tied names in
    sets, whose order of strings is another in each process; with several ties it decides what is placed first.

    ## Why it is bad
    A job that fits today runs out of memory tomorrow, or raises, or splits a tie, with nothing changed. The ranks of
    one job may each make another map.

    ## How to mend it
    Give the map explicitly, or set PYTHONHASHSEED before Python starts.
    """

    code = "TIE509"
    name = "plan-depends-on-hash-seed"
    summary = "the planned device map differs from process to process, with the hash seed"
    severity = "warning"

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        for plan in placement.plans:
            seeds = plan.seeds
            if seeds is None or seeds.crashes == seeds.tried or (seeds.maps < 2 and not seeds.crashes):
                continue
            names = _wavering(plan, seeds)
            met = unfollowed_words(plan, placement)
            yield Draft(
                f"{plan_title(plan)} depends on the hash seed: {_outcomes(seeds)}.{_moving(seeds)}{met}",
                names,
                (tool_place(plan, _outcomes(seeds)),),
                _fixed(plan, placement, names),
                severity="info" if is_aside(plan, placement) else None,
                hurts=hurt_by_plans((plan,), names),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.placement.cases import plain_placement, plain_plan

        seven = Seeds(tried=8, maps=7, moving=("model.layers.0", "model.layers.1"), splits=0, crashes=0)
        wavers = plain_plan("accelerate", seeds=seven)
        yield Case("seven maps in eight seeds", {"placement": plain_placement(wavers)}, finds=("warning",))
        yield Case("of a plan not followed", {"placement": plain_placement(plain_plan(), wavers)}, finds=("info",))
        some = wavers._replace(seeds=seven._replace(maps=1, moving=(), crashes=3))
        yield Case("it raises under some", {"placement": plain_placement(some)}, finds=("warning",))
        broken = wavers._replace(seeds=seven._replace(splits=2))
        yield Case("it splits a tie under some", {"placement": plain_placement(broken)}, finds=("warning",))
        always = wavers._replace(seeds=Seeds(8, 0, (), 0, 8))
        yield Case("it raises under all: TIE508", {"placement": plain_placement(always)})
        same = wavers._replace(seeds=Seeds(8, 1, (), 0, 0))
        yield Case("one map", {"placement": plain_placement(same)})
        yield Case("nobody asked", {"placement": plain_placement()})


def _outcomes(seeds: Seeds) -> str:
    """Return what came out of how many seeds."""
    parts = [f"{seeds.tried} seeds gave {seeds.maps} different map{'' if seeds.maps == 1 else 's'}"]
    if seeds.splits:
        parts.append(f"under {seeds.splits} a tie is split")
    if seeds.crashes:
        parts.append(f"under {seeds.crashes} the planner raises")
    return ", ".join(parts)


def _moving(seeds: Seeds) -> str:
    if not seeds.moving:
        return ""
    stand = "stands" if len(seeds.moving) == 1 else "stand"
    return f" {listed(seeds.moving)} {stand} on another device from one process to the next."


def _wavering(plan: Plan, seeds: Seeds) -> tuple[str, ...]:
    """Return the tied names in the modules that move; else every tied name, or the modules."""
    tied = {name for group in plan.placed for name in group.names}
    within = {name for name in tied if any(name.startswith(module + ".") for module in seeds.moving)}
    crashed = plan.crash.names if plan.crash else ()
    return tuple(sorted(within or tied)) or crashed or seeds.moving or ("the model",)


def _fixed(plan: Plan, placement: Placement, names: tuple[str, ...]) -> str:
    """Return the map to give, or the seed to set."""
    said = proposal_words(placement, names) if placement.proposal and placement.proposal.device_map else None
    if said is None and plan.device_map and not any(is_split(group) for group in plan.placed):
        said = f"Pass the map of this run: device_map={written_map(plan.device_map, names)}."
    seed = "et PYTHONHASHSEED=0 in the environment: then every process plans alike, whatever the plan."
    return f"{said} Or s{seed}" if said else f"S{seed}"
