"""The rules, a room a layer, and the registry that loads a room only where its layer was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule

FAMILIES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "1": (
        "stored",
        ("lost", "copies", "flags", "names", "shapes", "odd_flags"),
        "What is stored against what is declared",
    ),
    "2": ("files", ("shards", "formats", "optimizer", "strict", "loading"), "Files"),
    "3": ("live", ("applied", "groups", "flags", "seen", "members", "keys"), "The live model"),
    "5": ("placement", ("splits", "unseen", "counts", "planners", "loads"), "Placement and sharding"),
    "6": ("artefacts", ("adapters",), "Adapters, quantised and exported artefacts"),
    "7": ("training", ("scale",), "Training"),
}
"""First digit of a code -> the family's room, its modules, and its title."""


def rules_of_family(digit: str) -> tuple[type[Rule], ...]:
    """Return the rules of one family, by code."""
    from tiecheck.rules.base import Rule

    room, names, _ = FAMILIES[digit]
    modules = [import_module(f"tiecheck.rules.{room}.{name}") for name in names]
    things = [thing for module in modules for thing in vars(module).values()]
    found = [v for v in things if isinstance(v, type) and issubclass(v, Rule) and v is not Rule]
    return tuple(sorted(found, key=lambda rule: rule.code))


def all_rules() -> tuple[type[Rule], ...]:
    """Return every rule there is, by code."""
    return tuple(rule for digit in FAMILIES for rule in rules_of_family(digit))


def rule_of(code: str) -> type[Rule]:
    """Return the rule of a code, in any case.

    Raises:
        UsageError: There is none; the nearest codes are named.
    """
    wanted = code.upper()
    digit = wanted[3:4]
    for rule in rules_of_family(digit) if digit in FAMILIES else ():
        if rule.code == wanted:
            return rule
    raise UsageError(f"there is no rule {code!r}{_nearest(wanted)}")


@lru_cache(64)  # for a fleet it is asked the same each time
def select_rules(wanted: tuple[str, ...], ignored: tuple[str, ...], rooms: tuple[str, ...]) -> tuple[type[Rule], ...]:
    """Return the rules to run: chosen by codes or prefixes of codes, and of a layer that was asked for.

    Args:
        wanted: Codes or prefixes (`TIE1`); empty for all.
        ignored: Codes or prefixes to leave out.
        rooms: The rooms whose layer the target has; rules of others are not even loaded.

    Raises:
        UsageError: A prefix that fits no rule.
    """
    chosen = tuple(p.upper() for p in wanted) or ("TIE",)
    left_out = tuple(p.upper() for p in ignored)
    for prefix in (*chosen, *left_out):
        _check_prefix(prefix)
    return tuple(
        rule
        for digit, (room, _, _) in FAMILIES.items()
        if room in rooms and any(_may_match(p, digit) for p in chosen)
        for rule in rules_of_family(digit)
        if rule.code.startswith(chosen) and not (left_out and rule.code.startswith(left_out))
    )


def check_codes(words: Iterable[str]) -> None:
    """Refuse codes, or prefixes of codes, that no rule has.

    Raises:
        UsageError: One of them; the nearest codes are named.
    """
    for word in words:
        _check_prefix(word.upper())


def _may_match(prefix: str, digit: str) -> bool:
    return prefix.startswith(f"TIE{digit}") or f"TIE{digit}".startswith(prefix)


def _check_prefix(prefix: str) -> None:
    if "TIE".startswith(prefix) and prefix:
        return
    digit = prefix[3:4]
    if (
        prefix.startswith("TIE")
        and digit in FAMILIES
        and any(r.code.startswith(prefix) for r in rules_of_family(digit))
    ):
        return
    raise UsageError(f"no rule's code begins with {prefix!r}{_nearest(prefix)}")


def _nearest(code: str) -> str:
    import difflib

    codes = [rule.code for rule in all_rules()]
    near = difflib.get_close_matches(code, codes, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(sorted(near))}" if near else f"; there are {', '.join(codes)}"
