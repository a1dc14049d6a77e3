"""The outcome of a tie group by a rehearsed load: the library's own word, in the words of the loader matrix."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.peers.loaders.loader_rules import GENERAL, UNREAD
from tiecheck.peers.loaders.registry import covers_version, loaders_of
from tiecheck.peers.loaders.transformers import covers_release
from tiecheck.records.loaders import Dropped, Held, LoaderView, Rehearsal
from tiecheck.records.stored import Comparison, Group
from tiecheck.records.words import Outcome

LEFT = "left on the meta device without a word, and the first forward pass fails"


def rehearsed_outcome(
    group: Group, rehearsal: Rehearsal, comparison: Comparison | None = None
) -> tuple[Outcome, str | None]:
    """Return what the rehearsed loader makes of a tie group, and what it says, or for `unknown` the reason.

    The group's names are the rehearsed version's, or stand for embedding and head. The comparison of the stored members
    counts for what the rehearsal did not read (a remote target).
    """
    if rehearsal.unsure:
        return "unknown", rehearsal.unsure
    if rehearsal.raised:
        return "crash", ": ".join(rehearsal.raised)
    found = _members(group, rehearsal)
    if found is None:
        return "unknown", f"its parameters have other names in transformers {rehearsal.version}"
    outcome, message = _of_members(group, rehearsal, found, _alike(comparison))
    head = group.inferred or {rehearsal.head, rehearsal.embedding} <= found.keys()
    return (outcome if head else GENERAL.get(outcome, outcome)), message


def rehearsed_views(
    views: tuple[LoaderView, ...], groups: tuple[Group, ...], rehearsal: Rehearsal
) -> tuple[LoaderView, ...]:
    """Return the loader matrix with the rehearsed version's own word in its column, or in one more of its own."""
    number = tuple(int(part) for part in rehearsal.version.split(".")[:2] if part.isdecimal())
    column = next((one for one in loaders_of(("transformers",)) if covers_version(number, one)), None)
    versions = column.versions if column else rehearsal.version
    versions = next(
        (v.versions for v in views if v.loader == "transformers" and covers_release(v.versions, number)), versions
    )
    told: dict[tuple[str, ...], LoaderView] = {}
    for group in groups:
        outcome, message = rehearsed_outcome(group, rehearsal, group.comparison)
        if outcome != "unknown":
            ties = {"tied": True, "head-discarded": True, "member-discarded": True, "kept-apart": False}.get(outcome)
            flag = group.flag.dotted if group.flag else None
            value = group.flag.value if group.flag and isinstance(group.flag.value, bool) else None
            told[group.names] = LoaderView(
                *("transformers", versions, outcome, message, "rehearsed", group.names, flag, value, ties),
                stopped=bool(rehearsal.raised),
            )
    kept = tuple(
        _agreed(view, told.pop(view.names), rehearsal.version)
        if (view.loader, view.versions) == ("transformers", versions) and view.names in told
        else view
        for view in views
    )
    return (*kept, *told.values())


def _agreed(table: LoaderView, told: LoaderView, version: str) -> LoaderView:
    """Return the rehearsed word; where the table has another one, with the table's, since that is a fault of ours."""
    if table.outcome == told.outcome:
        return table._replace(checked="rehearsed", message=told.message or table.message, stopped=told.stopped)
    told = told._replace(reads=table.reads, value=table.value)
    if table.outcome == "unknown":
        return told
    message = f"transformers {version} itself, where tiecheck's table says {table.outcome}: please report that"
    return told._replace(message=f"{told.message}; {message}" if told.message else message)


def _members(group: Group, rehearsal: Rehearsal) -> dict[str, Held] | None:
    """Return the group's members by the names that the rehearsed class has for them."""
    known, head, embedding = rehearsal.by_name, rehearsal.head, rehearsal.embedding
    if all(name in known for name in group.names):
        return {name: known[name] for name in group.names}
    if len(group.names) == 2 and head is not None and embedding is not None and {head, embedding} <= known.keys():
        return {name: known[name] for name in (head, embedding)}
    return None


def _of_members(
    group: Group, rehearsal: Rehearsal, found: dict[str, Held], alike: bool | None
) -> tuple[Outcome, str | None]:
    left = [name for name, held in found.items() if held.state == "left"]
    if left:
        return "crash", f"{', '.join(left)}: {LEFT}"
    lost = [name for name, held in found.items() if held.state == "random"]
    if lost:
        source = group.source if group.source in found else rehearsal.embedding
        message = "newly initialised: " + ", ".join(lost)
        return ("embedding-random" if source in lost else "head-random"), message
    gone = [entry for entry in rehearsal.dropped if entry.name in found] + _passed_over(group, rehearsal)
    told = [alike if entry.equal is None else entry.equal for entry in gone]
    if False in told:
        names = ", ".join(entry.name for entry, equal in zip(gone, told, strict=True) if equal is False)
        return "head-discarded", f"stored and thrown away: {names}"
    pairs = [pair for pair in rehearsal.undecided if found.keys() >= set(pair)]
    if None in told or (pairs and alike is None):
        return "unknown", UNREAD
    return ("tied" if _objects(found.values(), pairs if alike else []) == 1 else "kept-apart"), None


def _passed_over(group: Group, rehearsal: Rehearsal) -> list[Dropped]:
    """Return the stored members that nothing was loaded from."""
    taken = {name for held in rehearsal.held for name in held.stored}
    taken |= {name for entry in rehearsal.dropped for name in entry.stored}
    return [Dropped(name, (name,), None) for name in group.stored_names if name not in taken]


def _objects(found: Iterable[Held], pairs: Iterable[tuple[str, str]]) -> int:
    """Return how many tensors some members are, with pairs of equal values taken as one."""
    parts = [set(held.names) for held in dict.fromkeys(found)]
    for pair in pairs:
        joined = [part for part in parts if part & set(pair)]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return len(parts)


def _alike(comparison: Comparison | None) -> bool | None:
    """Return whether the stored members have equal values: equal bytes are not, where a NaN may stand among them."""
    return None if comparison is None or comparison.form != "same" else comparison.equal
