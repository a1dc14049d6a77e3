"""The rules behind a word of the user: a code, a name, a message that was pasted, or a symptom in plain words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError, did_you_mean
from tiecheck.rules.index import INDEX
from tiecheck.rules.registry import FoundRules, all_rules, code_rules, rule_of
from tiecheck.rules.symptoms import Symptom, symptoms_of

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule

SHOWN = 8
"""Rules that a symptom in plain words leads to at most."""


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
