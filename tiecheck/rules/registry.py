"""The rules, a file or two a family, and the registry that loads a family only when one of its codes is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule

GROUPS: tuple[str, ...] = ("groups",)
LIVE: tuple[str, ...] = ("live",)
PLACEMENT: tuple[str, ...] = ("placement",)
FAMILIES: dict[str, tuple[dict[str, tuple[str, ...]], str]] = {
    "1": (
        dict.fromkeys(("stored.lost", "stored.copies", "stored.flags", "stored.names", "stored.shapes"), GROUPS),
        "What is stored against what is declared",
    ),
    "2": (
        {
            "files.shards": ("index", "duplicates"),
            "files.formats": ("layouts",),
            "files.optimizer": ("optimizer",),
            "files.strict": ("strict_load",),
        },
        "Files",
    ),
    "3": (
        dict.fromkeys(("live.applied", "live.groups", "live.flags", "live.seen", "live.members"), LIVE)
        | {"live.keys": ("keys",)},
        "The live model",
    ),
    "5": (
        dict.fromkeys(("placement.splits", "placement.planners", "placement.loads"), PLACEMENT),
        "Placement and sharding",
    ),
    "7": ({"training.scale": ("scale",)}, "Training"),
}
"""First digit -> the family's files, each with the facts of which its rules need one at least, and its title."""


def family(digit: str, facts: frozenset[str] | None = None) -> tuple[type[Rule], ...]:
    """The rules of one family, by code.

    Args:
        digit: The family.
        facts: The facts on offer; a file none of whose facts is there is not even loaded. None loads all.
    """
    from tiecheck.rules.base import Rule

    files = (name for name, any_of in FAMILIES[digit][0].items() if facts is None or not facts.isdisjoint(any_of))
    modules = [import_module(f"tiecheck.rules.{name}") for name in files]
    things = [thing for module in modules for thing in vars(module).values()]
    found = [v for v in things if isinstance(v, type) and issubclass(v, Rule) and v is not Rule]
    return tuple(sorted(found, key=lambda rule: rule.code))


def all_rules() -> tuple[type[Rule], ...]:
    """Every rule there is, by code."""
    return tuple(rule for digit in FAMILIES for rule in family(digit))


def rule_of(code: str) -> type[Rule]:
    """The rule of a code, in any case.

    Raises:
        UsageError: There is none; the nearest codes are named.
    """
    wanted = code.upper()
    digit = wanted[3:4]
    for rule in family(digit) if digit in FAMILIES else ():
        if rule.code == wanted:
            return rule
    raise UsageError(f"there is no rule {code!r}{_nearest(wanted)}")


def select(wanted: Iterable[str], ignored: Iterable[str], facts: Iterable[str]) -> tuple[type[Rule], ...]:
    """The rules to run: chosen by codes or prefixes of codes, and with a layer that was asked for.

    Args:
        wanted: Codes or prefixes (`TIE1`); empty for all.
        ignored: Codes or prefixes to leave out.
        facts: The facts the target can offer; rules that have none of theirs among them are not even loaded.

    Raises:
        UsageError: A prefix that fits no rule.
    """
    return _select(tuple(wanted), tuple(ignored), frozenset(facts))


@lru_cache(64)  # for a fleet it is asked the same each time
def _select(wanted: tuple[str, ...], ignored: tuple[str, ...], there: frozenset[str]) -> tuple[type[Rule], ...]:
    chosen = tuple(p.upper() for p in wanted) or ("TIE",)
    left_out = tuple(p.upper() for p in ignored)
    for prefix in (*chosen, *left_out):
        _check_prefix(prefix)
    return tuple(
        rule
        for digit in FAMILIES
        if any(_may_match(p, digit) for p in chosen)
        for rule in family(digit, there)
        if rule.code.startswith(chosen) and not (left_out and rule.code.startswith(left_out))
    )


def _may_match(prefix: str, digit: str) -> bool:
    return prefix.startswith(f"TIE{digit}") or f"TIE{digit}".startswith(prefix)


def _check_prefix(prefix: str) -> None:
    if "TIE".startswith(prefix) and prefix:
        return
    digit = prefix[3:4]
    if prefix.startswith("TIE") and digit in FAMILIES and any(r.code.startswith(prefix) for r in family(digit)):
        return
    raise UsageError(f"no rule's code begins with {prefix!r}{_nearest(prefix)}")


def _nearest(code: str) -> str:
    import difflib

    codes = [rule.code for rule in all_rules()]
    near = difflib.get_close_matches(code, codes, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(sorted(near))}" if near else f"; there are {', '.join(codes)}"
