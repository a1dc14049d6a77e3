"""The rules behind a word of the user: a code, a name, a message that was pasted, or a symptom in plain words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from tiecheck.errors import UsageError, near_words
from tiecheck.records.words import Unknown
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
    own = _rule_messages()
    begins = re.match(r"\W*(tie\d{3})\b", plain_text(wanted))
    said = [code for code in INDEX if begins and code == begins[1].upper()]
    heard = symptoms_of(wanted, own)
    score = match_message(heard[0].says, plain_text(wanted)) if heard else 0
    whole = said or (score > 0.8 * len(plain_text(wanted)) and heard[0] not in own)
    parts, sure = ((), True) if whole else messages_with(wanted)
    codes = said + [code for symptom in (*heard, *parts) for code in symptom.codes.split() if code in INDEX]
    if not sure and score < 2 * SHORTEST:  # a symptom in plain words, or a few words of a message
        codes = [code for pair in zip_longest(_by_words(wanted, rules), dict.fromkeys(codes)) for code in pair if code]
    heard += parts if sure else ()
    if codes or heard:
        first = next((symptom for symptom in heard if symptom.when), heard[0] if heard else None)
        known = tuple(rule_of(code) for code in [*dict.fromkeys(codes)][:SHOWN])
        return FoundRules(known, first if first in (*read_symptoms(), *own) else None)
    near = near_words(wanted, [rule.name for rule in rules]) if "-" in wanted else []
    hint = f"did you mean {near[0]!r}?" if near else "paste more of a message, or see `tiecheck rule`, which lists all"
    raise UsageError(f"no rule is known for {wanted!r}; {hint}")


def _rule_messages() -> tuple[Symptom, ...]:
    return tuple(Symptom(message, rule.code) for rule in all_rules() for message in rule.messages)


@cache
def _told_parts() -> tuple[tuple[Symptom, frozenset[tuple[str, ...]]], ...]:
    """Return every message with its runs of words: libraries', rules', and our own findings' by the rules' cases."""
    found = (
        Symptom(f"{draft.message} {draft.help} {draft.no_mend}", rule.code)
        for rule in all_rules()
        for case in rule.cases()
        for draft in rule().check(**{fact: value for fact, value in case.facts.items() if fact in rule.needs})
        if not isinstance(draft, Unknown)
    )
    told = (*read_symptoms(), *_rule_messages(), *found)
    return tuple((one, _runs(f"{one.says} {one.more}")) for one in told)


def messages_with(text: str) -> tuple[tuple[Symptom, ...], bool]:
    """Return the messages of which a text may be any part, the likeliest first, and whether that is sure.

    It is told by pairs and triples of words. What varies (names, numbers, paths) is one word like another; a pair that
    many messages have says little.
    """
    pasted = _runs(text)
    held = [(one, runs & pasted) for one, runs in _told_parts()]
    often = Counter(run for _, runs in held for run in runs)
    scored = [(sum(len(run) / (1 + math.log(often[run])) for run in runs), i) for i, (_, runs) in enumerate(held)]
    best = max((score for score, _ in scored), default=0.0)
    if best < LEAST:
        return (), False
    ranked = [held[i][0] for score, i in sorted(scored, key=lambda one: (-one[0], one[1])) if score * 2 >= best]
    codes: dict[str, None] = {}
    for count, one in enumerate(ranked):
        if len(codes) >= SHOWN:
            return tuple(ranked[:count]), best > SURE
        codes |= dict.fromkeys(one.codes.split())
    return tuple(ranked), best > SURE


LEAST = 3.0
"""Score of a part of a message that says anything: one triple of words that no other message has."""

SURE = 8.0
"""Score above which it is a part of that message, and no sentence in plain words."""


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    """Return the pairs and triples of words of a text, `...` for what varies."""
    words: list[str] = []
    for word in plain_text(text).split():
        plain = "..." if re.search(r"\d|\w\.\w|\.\.\.|/", word) else re.sub(r"[^\w=-]", "", word)
        if plain and not (plain == "..." and words and words[-1] == "..."):
            words.append(plain)
    runs = (tuple(words[i : i + n]) for n in (2, 3) for i in range(len(words) - n + 1))
    return frozenset(run for run in runs if run.count("...") < len(run) - 1)


def _by_words(text: str, rules: tuple[type[Rule], ...]) -> tuple[str, ...]:
    """Return the codes of the rules whose texts have the words of a symptom, the likeliest first (BM25 over stems).

    A word counts by how rare it is; a rule counts that has two of the words, or half.
    """
    texts = _word_counts(rules)
    asked, scores, met = set(_stems(text)), dict.fromkeys(texts, 0.0), Counter[str]()
    often = Counter(word for counts in texts.values() for word in counts)
    length = sum(counts.total() for counts in texts.values()) / len(texts)
    for code, counts in texts.items():
        for word in asked & counts.keys():
            rare = math.log(1 + (len(texts) - often[word] + 0.5) / (often[word] + 0.5))
            scores[code] += rare * counts[word] * 3 / (counts[word] + 0.5 + 1.5 * counts.total() / length)
            met[code] += 1
    enough = [code for code in texts if met[code] > 1 or met[code] * 2 > len(asked)]
    return tuple(sorted(enough, key=lambda code: (-scores[code], code))[:SHOWN])


@cache
def _word_counts(rules: tuple[type[Rule], ...]) -> dict[str, Counter[str]]:
    """Return the stems of each rule's name, text and messages."""
    texts = {
        rule.code: f"{f'{rule.name} {rule.summary} ' * 3}{rule.__doc__} {' '.join(rule.messages)}" for rule in rules
    }
    return {code: Counter(_stems(text)) for code, text in texts.items()}


def _stem(word: str) -> str:
    """Return a word without the endings that a sentence gives it, spelt one way: merging, merged and merge are one."""
    word = re.sub(r"iz(?=[aei])", "is", word)
    for ending in ("isation", "ations", "ation", "ingly", "ings", "ing", "edly", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            word = word.removesuffix(ending)
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _stems(text: str) -> list[str]:
    """Return the words of a text that lead somewhere, as stems; a dotted name whole and in its parts."""
    words = re.findall(r"[a-z0-9][\w.+-]*[a-z0-9]", text.lower())
    parts = (part for word in words for part in {word, *re.split(r"[._-]", word)})
    return [_stem(part) for part in parts if len(part) > 2 and part not in _COMMON]


_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the and are for with not was its has have had when why how what who all nothing model that this these from "
        "does but than too more very other after before although should some into only one can you your get gets they",
    )
)
"""Words that lead nowhere."""


def plain_text(text: str) -> str:
    """Return a text for comparing: lower case, no quotes, backticks or colours, blanks and line breaks as one."""
    return " ".join(re.sub(r"\x1b\[[\d;]*[a-z]|[\"'`]", "", text.lower()).split())


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
