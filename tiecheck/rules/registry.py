"""The registry of rules: each is known by its code, and loaded only where the facts that it wants are on offer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError, did_you_mean, near_words
from tiecheck.records.record import Record
from tiecheck.rules.index import INDEX
from tiecheck.tables.symptoms import Symptom, read_symptoms

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName, Facts
    from tiecheck.rules.base import Rule
    from tiecheck.tables.symptoms import Symptom


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


SHOWN = 8
"""Rules that a symptom in plain words leads to at most."""

SHORTEST = 8
"""Characters of a pasted text, or of a piece of a message, that say anything."""


def search_rules(text: str) -> FoundRules:
    """Find the rules behind a text; where there is none, a `UsageError` tells the nearest codes or names."""
    wanted = text.strip()
    if known := code_rules(wanted):
        return FoundRules(known, None)
    rules = all_rules()
    named = tuple(rule for rule in rules if rule.name == wanted.lower().replace(" ", "-").replace("_", "-"))
    if named:
        return FoundRules(named, None)
    own = (Symptom(message, rule.code) for rule in rules for message in rule.messages)
    heard = symptoms_of(wanted, own)
    codes = [code for symptom in heard for code in symptom.codes.split() if code in INDEX]
    if heard:
        first = next((symptom for symptom in heard if symptom.when), heard[0])
        return FoundRules(tuple(rule_of(code) for code in dict.fromkeys(codes)), first)
    fitting = _by_words(wanted, rules)
    if fitting:
        return FoundRules(fitting, None)
    hint = did_you_mean(wanted, [rule.name for rule in rules]) if "-" in wanted else "; `tiecheck rule` lists all"
    raise UsageError(f"no rule is known for {wanted!r}{hint}")


def _by_words(text: str, rules: tuple[type[Rule], ...]) -> tuple[type[Rule], ...]:
    """Return the rules that have most of the words of a symptom in their text, a rare word counting more."""
    words = {word for word in re.findall(r"[\w.]{3,}", text.lower()) if word not in _COMMON}
    texts = {rule.code: f"{rule.name.replace('-', ' ')} {rule.summary} {rule.__doc__}".lower() for rule in rules}
    held = {word: [code for code, body in texts.items() if word in body] for word in words}
    scores: dict[str, float] = {}
    for codes in held.values():
        for code in codes:
            scores[code] = scores.get(code, 0) + 1 / len(codes)
    enough = {code for code in scores if sum(code in codes for codes in held.values()) * 2 > len(words)}
    best = sorted(enough, key=lambda code: (-scores[code], code))[:SHOWN]
    return tuple(rule_of(code) for code in best)


_COMMON = frozenset(("the", "and", "are", "for", "with", "not", "was", "its", "has", "when", "why", "model", "weights"))
"""Words that lead nowhere."""


def plain_text(text: str) -> str:
    """Return a text for comparing: lower case, no quotes, backticks or colours, blanks and line breaks as one."""
    return " ".join(re.sub(r"\x1b\[[\d;]*m|[\"'`]", "", text.lower()).split())


def match_message(says: str, pasted: str) -> int:
    """Return how many characters of a message (`...` varies) are in a pasted text, or the reverse; else 0."""
    pieces = [piece.strip() for piece in plain_text(says).split("...")]
    place = 0
    for piece in pieces:
        place = pasted.find(piece, place)
        if place < 0:
            break
        place += len(piece)
    else:
        return sum(map(len, pieces))
    asked = [piece for word in pasted.split("...") if len(piece := word.strip()) >= SHORTEST]
    whole = plain_text(says)
    return sum(map(len, asked)) if asked and all(piece in whole for piece in asked) else 0


def symptoms_of(text: str, more: Iterable[Symptom] = ()) -> tuple[Symptom, ...]:
    """Return the messages, those of rules (`more`) included, that a text holds or is a part of, the best fit first."""
    pasted = plain_text(text)
    if len(pasted) < SHORTEST:
        return ()
    known = read_symptoms()
    scored = [(match_message(one.says, pasted), i, one) for i, one in enumerate((*known, *more))]
    best = max((score for score, _, _ in scored), default=0)
    fitting = [one for one in scored if one[0] > 0 and one[0] * 2 >= best]
    fitting.sort(key=lambda one: (one[1] >= len(known), -one[0], one[1]))
    return tuple(one for _, _, one in fitting)
