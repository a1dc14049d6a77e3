"""The registry of rules: each is known by its code, and loaded only where the facts that it wants are on offer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError, near_words
from tiecheck.records.record import Record

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName, Facts
    from tiecheck.rules.base import Rule
    from tiecheck.tables.symptoms import Symptom


INDEX: dict[str, tuple[str, tuple[FactName, ...]]] = {}

OTHER_SEVERITIES: dict[str, str] = {}
"""Code -> the other severities that its findings have in some of its cases."""

with open(os.path.join(os.path.dirname(__file__), "index.txt"), encoding="utf-8") as _table:
    for _line in _table:
        _code, _module, _needs, *_others = _line.rstrip("\n").split("\t")
        INDEX[_code] = _module, tuple(_needs.split(" "))  # type: ignore[arg-type]  # made off the facts' own names
        OTHER_SEVERITIES.update((_code, words) for words in _others)


FAMILIES: dict[str, tuple[str, str]] = {
    "1": ("stored", "What is stored against what is declared"),
    "2": ("files", "Files"),
    "3": ("live", "The live model"),
    "4": ("life", "Life"),
    "5": ("placement", "Placement and sharding"),
    "6": ("artefacts", "Adapters, quantised and exported artefacts"),
    "7": ("training", "Training"),
    "8": ("source", "Sources"),
    "9": ("source", "Suppressions"),
}
"""First digit of a code -> the family's room, and its title."""

WANTED: frozenset[FactName] = frozenset(need for _, needs in INDEX.values() for need in needs)


def rules_of_family(digit: str) -> tuple[type[Rule], ...]:
    """Return the rules of one family, by code."""
    return tuple(_load(code) for code in INDEX if code[3] == digit)


def all_rules() -> tuple[type[Rule], ...]:
    """Return every rule there is, by code."""
    return tuple(map(_load, INDEX))


def rule_of(code: str) -> type[Rule]:
    """Return the rule of a code, in any case; where there is none, a `UsageError` names the nearest codes."""
    wanted = code.upper()
    if wanted not in INDEX:
        raise UsageError(f"there is no rule {code!r}{_nearest(wanted)}")
    return _load(wanted)


class FoundRules(Record):
    """The rules that a word of the user leads to."""

    rules: tuple[type[Rule], ...]
    """Rules, likeliest first."""
    symptom: Symptom | None
    """The message that fits best; None where none does."""


def code_rules(text: str) -> tuple[type[Rule], ...]:
    """Return the rules of a code or a beginning of one; none for other texts, an error for a code that is none."""
    prefix = text.upper()
    if not prefix.startswith("TIE") or not prefix[3:].isdecimal():
        return ()
    codes = [code for code in INDEX if code.startswith(prefix)] if len(prefix) < len("TIE101") else []
    return tuple(map(rule_of, codes)) or (rule_of(text),)


def _load(code: str) -> type[Rule]:
    module = import_module(f"tiecheck.rules.{INDEX[code][0]}")
    rule: type[Rule] = next(thing for thing in vars(module).values() if getattr(thing, "code", None) == code)
    return rule


def select_rules(wanted: tuple[str, ...], ignored: tuple[str, ...], facts: Facts) -> tuple[type[Rule], ...]:
    """Return the rules that codes or prefixes (`TIE1`; none for all) choose, and whose facts are all on offer.

    Others are not even loaded. A prefix that fits no rule raises a `UsageError`.
    """
    return _selected(wanted, ignored, frozenset(name for name in WANTED if name in facts))


@lru_cache(64)  # for a fleet it is asked the same each time
def _selected(
    wanted: tuple[str, ...], ignored: tuple[str, ...], offered: frozenset[FactName]
) -> tuple[type[Rule], ...]:
    check_codes((*wanted, *ignored))
    chosen = tuple(prefix.upper() for prefix in wanted) or ("TIE",)
    left_out = tuple(prefix.upper() for prefix in ignored)
    return tuple(
        _load(code)
        for code, (_, needs) in INDEX.items()
        if code.startswith(chosen) and not code.startswith(left_out) and offered.issuperset(needs)
    )


def check_codes(words: Iterable[str]) -> None:
    """Raise a `UsageError`, with the nearest codes, for a code or prefix that no rule has."""
    for word in words:
        prefix = word.upper()
        if not prefix or not any(code.startswith(prefix) for code in INDEX):
            raise UsageError(f"no rule's code begins with {prefix!r}{_nearest(prefix)}")


def _nearest(code: str) -> str:
    near = near_words(code, INDEX, 3, 0.5)
    return f"; the nearest are {', '.join(sorted(near))}" if near else f"; there are {', '.join(INDEX)}"
