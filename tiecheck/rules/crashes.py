"""Why a planner raises on a model, in words, and what makes it work without another release."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.facts_placement import Crash, Placement, Plan
from tiecheck.rules.plans import proposed
from tiecheck.rules.wording import listed


def mistaken(names: tuple[str, ...]) -> tuple[str, str] | None:
    """A module and a tied name outside of it that the planner takes for contained in it.

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


def why(crash: Crash) -> str:
    """What the planner does wrong, in words that can stand after "raises ...: "."""
    names = listed(crash.names) if crash.names else "the tied names"
    taken = mistaken(crash.names)
    if crash.cause == "substring" and taken is not None:
        module, other = taken
        owner = other.rpartition(".")[0]
        return (
            f"it looks for {module + '.'!r} anywhere inside the tied names, finds it in {other!r}, and takes that for "
            f"a part of {module}. {module} is placed alone, and when {owner} follows, the module that it is tied to is "
            "no longer among those to place"
        )
    if crash.cause == "sibling":
        return (
            f"{names} are one module under several paths, and named_children() lists a module once. The planner looks "
            "for the other path among the modules to place, where it never was"
        )
    if crash.cause == "root":
        return (
            f"of {names} at least one is a parameter of the model itself or of a module that was taken apart. The "
            "planner looks for a module that holds the tied name, and the parameter stands there by itself"
        )
    at = f" while it placed {crash.module}" if crash.module else ""
    if crash.names and crash.error.startswith("IndexError"):
        return f"the module of one of {names} was no longer among those to place{at}"
    return f"this came up{at}" + (f", over {names}" if crash.names else "")


def mend(crash: Crash, plan: Plan, placement: Placement) -> str:
    """What works with this release: a map that was made elsewhere, and the change of the class for this cause."""
    if crash.cause == "other":
        return proposed(placement, crash.names) or f"{plan.tool} says why. A device_map that is given needs no planner."
    changed = _change(crash)
    said = proposed(placement, crash.names)
    known = placement.proposal.device_map if placement.proposal else {}
    if not known:
        plain = "Pass a device_map ({'': 0} where all fits on one device): a given map needs no planner."
        said = f"{said} {plain}" if said else plain
    alias = ""
    if crash.cause == "sibling" and len(known) > 1:
        alias = " accelerate then warns that the key of the second path matches no submodule, which is harmless."
    return f"{said}{alias} Or change the class: {changed}."


def _change(crash: Crash) -> str:
    if crash.cause == "substring":
        taken = mistaken(crash.names)
        if taken is not None:
            module, other = taken
            first = other.rpartition(".")[0] or other
            return f"register {first} before {module} in __init__, or give one a name that does not end like the other"
        return "rename the modules so that no name is the end of another"
    if crash.cause == "sibling":
        return "give the second path a layer of its own and assign the weight to it, instead of the module"
    return "keep at most one of the tied parameters on the model itself, and the others in submodules"
