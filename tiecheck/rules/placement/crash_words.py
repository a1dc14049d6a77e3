"""Why a planner raises on a model, in words, and what makes it work without another release."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.placement import Crash, Placement
from tiecheck.rules.placement.plans import proposed
from tiecheck.wording import listed


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
    """What the planner does wrong, as sentences; empty where nothing is known beside what it raises."""
    names = listed(crash.names) if crash.names else "the tied names"
    taken = mistaken(crash.names)
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


def no_tie(crash: Crash) -> bool:
    """Whether it raised for another reason than a tie: nothing was placed yet."""
    return crash.cause == "other" and not crash.names and not crash.error.startswith("IndexError")


def mend(crash: Crash, placement: Placement) -> str:
    """What works with this release: a map that was made elsewhere, and the change of the class for this cause."""
    if no_tie(crash) and "disk" in (placement.memory or {}):
        return (
            "Leave disk out of max_memory: the disk is used anyhow where nothing else has room. accelerate balances "
            "only devices that torch knows."
        )
    said = proposed(placement, crash.names)
    known = placement.proposal.device_map if placement.proposal else {}
    if not known:
        plain = "Pass a device_map ({'': 0} where all fits on one device): a given map needs no planner."
        said = f"{said} {plain}" if said else plain
    alias = ""
    if crash.cause == "sibling" and len(known) > 1:
        alias = " accelerate then warns that the key of the second path matches no submodule, which is harmless."
    return f"{said}{alias}{_change(crash)}"


def _change(crash: Crash) -> str:
    """What to change in the class, where that helps."""
    taken = mistaken(crash.names)
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
