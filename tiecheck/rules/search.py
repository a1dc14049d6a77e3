"""The rules behind a word of the user: a code, a name, a message that was pasted, or a symptom in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError, did_you_mean
from tiecheck.rules.registry import INDEX, FoundRules, all_rules, code_rules, rule_of
from tiecheck.tables.symptoms import Symptom, read_symptoms

if TYPE_CHECKING:
    from tiecheck.rules.base import Rule

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
    if " " not in pasted:  # a key of a config, or a function: many messages have it
        return 0
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
