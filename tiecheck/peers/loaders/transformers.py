"""transformers 4.57 and 5: the two whose every cell was run (tests/peers/test_loading.py).

Both tables come from the library itself, so that what is tied under which flag is known. What remains is what each does
where that and the file do not fit: 5 compares the stored members pair by pair and keeps different ones apart; 4.57 ties
after loading, the source wins, and nothing is said; where only targets are stored it leaves both on the meta device.

Two things changed within 5.0 to 5.24, both run for `tables/releases.txt`: 5.4 was the first to take stored members with
equal values for one (`tie_weights`), and some classes changed what they tie (CSM, transformers#48999).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from tiecheck.peers.loaders.loader_rules import (
    GENERAL,
    UNREAD,
    Decision,
    Loader,
    Policy,
    Situation,
    in_group_words,
    outcome_of,
    stored_of,
    worst_decision,
)
from tiecheck.records.stored import Group
from tiecheck.records.words import DISCARDED, RANDOM, Outcome
from tiecheck.tables.releases import (
    OtherTies,
    Release,
    any_number,
    first_release,
    first_with_copies,
    known_releases,
    other_ties,
)
from tiecheck.wording import listed, pronoun_for

WARNING = (
    "The tied weights mapping and config for this model specifies to tie ..., but both are present in the checkpoints "
    "with different values, so we will NOT tie them."
)

FIVE = Policy(
    differ=("kept-apart", WARNING),
    shapes=("crash", "RuntimeError: You set `ignore_mismatched_sizes` to `False`, thus raising an error."),
)

FOUR = Policy(
    no_source=("crash", "all stay on the meta device without a word, and the first forward pass fails"),
    shapes=("crash", "RuntimeError: Error(s) in loading state_dict: size mismatch"),
)

MANY: tuple[Outcome, str | None] = ("unknown", "BART's own code takes the decoder's embedding then, and others do not")
"""Outcome of a group whose source is not stored and the decoder's embedding is, where it is not told whether it is a
BART's: elsewhere all stays on meta, but where the missing source is one module with a stored member (T5, Marian)."""

OUTSIDE: tuple[Outcome, str | None] = (
    "crash",
    "the head stays on the meta device without a word, and the first forward pass fails",
)
"""Outcome of a head outside of a BART (Florence-2) that was tied to a source which BART's own code replaces later."""

OWN_KINDS = {
    "module": FOUR._replace(no_source=("tied", None)),
    "storage": FOUR._replace(no_source=("embedding-random", None)),
}
"""For a module that has several names, what is stored under any of them is loaded into it; a buffer that is not stored
has values of its own, which take the place of those that were loaded (SAM)."""


def _reads(group: Group) -> tuple[str, bool | None]:
    """Return the flag that decides for a group, and what it says."""
    flag = group.flag
    value = flag.value if flag is not None and isinstance(flag.value, bool) else None
    return flag.dotted if flag else ".".join((*group.level, group.key)), value


def _in_part(group: Group) -> bool:
    """Return True if a member may not be there: it has another name, or a shape that does not fit."""
    return group.misfit or (group.stored == "unknown" and len(group.stored_names) < len(group.names))


def decide_five(situation: Situation) -> Decision:
    """Decide by the resolved group: its declaration is what transformers 5 reads."""
    group = situation.group
    if group.inferred:
        older = situation.older
        return Decision("unknown", older if isinstance(older, str) else "the class's own code was not run")
    reads, value = (None, None) if group.inert else _reads(group)
    if _in_part(group):
        return Decision("unknown", group.reason, reads, value, group.declared)
    data = situation.config.data if situation.config else {}
    asked = data.get("dtype", data.get("torch_dtype"))
    outcome, message = outcome_of(group.declared, stored_of(group, asked), FIVE)
    if outcome in RANDOM and situation.head:
        outcome = "embedding-random" if situation.architecture.embedding in group.missing else "head-random"
    if outcome == "tied" and group.stored == "copy" and group.comparison is not None and group.comparison.nan:
        outcome, message = FIVE.differ  # it asks torch.equal, and a NaN is equal to nothing
    if outcome in RANDOM and situation.architecture.unread.issuperset(group.missing):
        outcome, message = "kept-apart", _unread(group.missing, "comes out random")
    return in_group_words(Decision(outcome, message, reads, value, group.declared), situation)


def _unread(names: tuple[str, ...], ends: str) -> str:
    return f"{listed(names)} {ends}, which no forward pass reads"


def _four(situation: Situation) -> Decision | None:
    """Decide by the groups of 4.57's own class, which may split what 5 ties as one (T5's false unties the head)."""
    older = situation.older
    if older is None:
        return None
    if isinstance(older, str):
        return Decision("unknown", older)
    if not older:
        outcome, message = outcome_of(False, stored_of(situation.group), FOUR)
        return in_group_words(Decision(outcome, message, None, None, False), situation)
    whole = max(older, key=lambda group: len(group.names))
    reads, value = _reads(whole)
    unread = next((g for g in older if g.declared is None or _in_part(g)), None)
    if unread is not None:
        return Decision("unknown", unread.reason, reads, value)
    if not any(group.declared for group in older):
        outcome, message = outcome_of(False, stored_of(whole), FOUR)
        if outcome in RANDOM:
            gone = tuple(sorted({name for group in older for name in group.missing}))
            message = f"it looks for {listed(gone)}, and makes {pronoun_for(gone)} at random"
        return in_group_words(Decision(outcome, message, reads, value, False), situation)
    parts = _parts(older)
    decisions = [_of_part(part, whole, situation)._replace(ties=len(part) > 1) for part in parts]
    decision = worst_decision((*decisions, _passed_over(situation.group, older)))
    blind = next((part for part in decisions if part.outcome == "unknown"), None)
    if blind is not None and decision.outcome != "crash":
        decision = blind  # it may be worse than what is known of the other parts
    # Of a group that 4.57 ties in part, what is lost tells which part the verdict is about.
    ties = len(parts) == 1 or (decision.ties is True and decision.outcome in DISCARDED)
    return in_group_words(decision._replace(reads=reads, value=value, ties=ties), situation)


def _passed_over(group: Group, older: tuple[Group, ...]) -> Decision:
    """Decide for stored members under names that 4.57 does not have (GPT-NeoX's head is `embed_out` there)."""
    known = {name for other in older for name in other.stored_names}
    if set(group.stored_names) <= known:
        return Decision("tied")
    alike = stored_of(group, "float32").alike
    return Decision("unknown", UNREAD) if alike is None else Decision("tied" if alike else "head-discarded")


def _parts(older: tuple[Group, ...]) -> list[frozenset[str]]:
    """Return the members by what 4.57 makes one tensor: those of tied groups together, each other one alone."""
    parts = [frozenset((name,)) for name in sorted({name for group in older for name in group.names})]
    for group in older:
        if group.declared:
            joined = [part for part in parts if part & set(group.names)]
            parts = [part for part in parts if part not in joined] + [frozenset().union(*joined)]
    return parts


def _of_part(part: frozenset[str], whole: Group, situation: Situation) -> Decision:
    """Return what becomes of one part of a group, which has no head to lose where the head is in another part."""
    outcome, message = _part(part, whole, situation)
    known = part <= set(situation.group.names)  # else the head may be in it, under a name that only 4.57 has
    if outcome == "head-discarded" and known and situation.architecture.head not in part and whole.source in part:
        lost = tuple(sorted(part - {whole.source, *whole.missing}))
        if lost and situation.architecture.unread.issuperset(lost):
            return Decision("tied", _unread(lost, "is thrown away"))
        return Decision(GENERAL[outcome], f"{whole.source} takes the place of {listed(lost)}", lost=lost)
    return Decision(outcome, message)


def _part(part: frozenset[str], whole: Group, situation: Situation) -> tuple[Outcome, str | None]:
    """Return what becomes of one part of a group."""
    older = situation.older if isinstance(situation.older, tuple) else ()
    if len(part) == 1:
        (name,) = part
        lost = any(name in group.missing for group in older)
        source = name == whole.source
        return ("embedding-random" if source else "head-random", None) if lost else ("kept-apart", None)
    group = next((g for g in older if frozenset(g.names) == part), None)
    if group is None:
        return "unknown", "several groups of 4.57 overlap"
    stored = stored_of(group, "float32")  # its default, whatever the config says
    embedding = situation.architecture.embedding
    if not stored.some and embedding not in part and any(embedding in other.names for other in older):
        return "head-random", None  # FSMT's decoder alone
    if group.kind in OWN_KINDS:
        return outcome_of(True, stored, OWN_KINDS[group.kind])
    return outcome_of(True, stored, FOUR) if stored.source or not stored.some else _sourceless(group, older, situation)


def _sourceless(group: Group, older: tuple[Group, ...], situation: Situation) -> tuple[Outcome, str | None]:
    """Return what becomes of a tied group of which only targets are stored."""
    stored, there = stored_of(group), set(group.names).difference(group.missing)
    aliases = (other for other in older if other.kind == "module" and group.source in other.names)
    if any(there & set(other.names) for other in aliases):  # one module under both names: the source is loaded with it
        return outcome_of(True, stored._replace(source=True, targets=False), FOUR)
    bart = _is_barts(situation) if any(name.endswith("decoder.embed_tokens.weight") for name in there) else False
    if bart:
        heads = {name.removesuffix("lm_head.weight") for name in group.names if name.endswith("lm_head.weight")}
        own = all(group.source == f"{prefix}model.shared.weight" for prefix in heads)
        return outcome_of(True, stored._replace(source=True, targets=False), FOUR) if own else OUTSIDE
    if bart is None:
        return MANY
    return FOUR.no_source if stored.shapes else FOUR.shapes


def _is_barts(situation: Situation) -> bool | None:
    """Return True where a config or a section of it is a BART's; None where a section does not say what it is."""
    data = situation.config.data if situation.config is not None else {}
    sections = [value for key, value in data.items() if key in PARTS or key.endswith("_config")]
    kinds = [section.get("model_type") for section in (data, *sections) if isinstance(section, Mapping)]
    return True if "bart" in kinds else None if None in kinds else False


PARTS = ("encoder", "decoder", "generator")
"""Keys of sections of a composed config that do not end in `_config`."""


def release_named(versions: str) -> Release | None:
    """Return the release of transformers 5 that a version names; None for another version, or the whole line."""
    parts = versions.split(".")
    plain = len(parts) > 1 and all(part.isdecimal() for part in parts)
    return (5, int(parts[1])) if plain and parts[0] == "5" else None


def covers_release(versions: str, release: tuple[int, ...]) -> bool:
    """Tell whether a release is the one that versions of transformers name, or one of their range; `5` names none."""
    first, _, last = versions.partition("-")
    start, end = release_named(first), release_named(last or first)
    return start is not None and end is not None and start <= release <= end


def decide_in(situation: Situation, release: Release) -> Decision | None:
    """Decide as one release of transformers 5 does; None for a class that it does not have."""
    kind, name = situation.config.model_type if situation.config else None, situation.architecture.class_name or ""
    came = first_release(name)
    if came is not None and release < came:
        return None
    group = situation.group
    rows = (one for one in other_ties(name, kind) if one.since <= release < one.until)
    row = next((one for one in rows if one.names == any_number(group.names)), None)
    if row is not None:
        situation = situation._replace(group=group._replace(declared=_tied(row, situation), inert=False))
    decision = decide_five(situation)
    if (
        release < first_with_copies()
        and decision.outcome == "tied"
        and group.stored == "copy"
        and group.kind != "module"
    ):
        if len(group.names) > 2:
            why = f"5.{release[1]} keeps equal members apart, and which of more than two those are was not asked"
            return decision._replace(outcome="unknown", message=why, ties=None)
        return decision._replace(outcome="kept-apart", message=FIVE.differ[1])
    return decision


def _tied(row: OtherTies, situation: Situation) -> bool | None:
    """Return whether a row ties its group under the flags of a config; None where they do not agree."""
    states = {row.silent, row.on, row.off} - {None}
    if len(states) == 1:
        return states.pop()
    values = [flag.value for flag in situation.config.flags] if situation.config else []
    if all(value is True for value in values) or all(value is False for value in values):
        return row.silent if not values else row.on if values[0] else row.off
    return None


def earlier_decisions(situation: Situation, newest: Decision) -> Iterator[tuple[str, Decision]]:
    """Yield each range of releases in which a group is known to end otherwise, oldest first, and how."""
    kind, name = situation.config.model_type if situation.config else None, situation.architecture.class_name or ""
    rows = other_ties(name, kind)
    if not rows and situation.group.stored != "copy":
        return
    cuts = sorted(
        {known_releases()[0], first_release(name) or known_releases()[0], first_with_copies()}.union(
            *(one[:2] for one in rows)
        )
    )
    spans: list[tuple[Release, Release, Decision]] = []
    for since, until in pairwise(cuts):
        decision = decide_in(situation, since)
        if decision is None or decision.outcome in (newest.outcome, "unknown"):
            continue
        joined = bool(spans) and spans[-1][1] == since and spans[-1][2] == decision
        spans.append((spans.pop()[0] if joined else since, until, decision))
    for since, until, decision in spans:
        first, last = since[1], max(one for one in known_releases() if one < until)[1]
        yield (f"5.{first}" if first == last else f"5.{first}-5.{last}"), decision


LOADERS = (
    Loader("transformers", "4.57", (4, 57), (4, 58), "run", _four),
    Loader("transformers", "5", (5,), (6,), "run", decide_five),
)
