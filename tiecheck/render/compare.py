"""Two targets side by side, for people: the groups that differ with all that is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from tiecheck.records.fleet import TieChange, TieComparison
from tiecheck.records.report import TieEntry
from tiecheck.records.words import TIED
from tiecheck.render.inspect import LABEL, tie_facts
from tiecheck.render.lines import Line, first_names, write_lines
from tiecheck.render.reports import Style
from tiecheck.wording import listed

LISTS = {"lost": "red", "made": "yellow", "changed": "yellow", "same": "green"}
"""The lists of a comparison -> the colour of each."""

SHOWN = 12
"""Groups of a list that are shown; of those that are the same the names alone."""


def render(found: TieComparison, style: Style, stream: TextIO) -> None:
    """Write a comparison as text."""
    lines = [Line(f"{found.before} -> {found.after}", 0, 2, "bold")]
    for word, tone in LISTS.items():
        changes = getattr(found, word)
        shown = len(changes) if style.verbose else SHOWN
        for change in changes[:shown]:
            lines.append(Line(f"{word:<{LABEL}}{_names(change)}", 0, LABEL, tone, len(word)))
            lines += _facts(change, full=word != "same" or style.verbose)
        if len(changes) > shown:
            lines.append(Line(f"and {len(changes) - shown:,} more {word} (-v shows them)", 0, 0, "dim"))
    for where, names in (("first", found.only_before), ("second", found.only_after)):
        if names:
            lines.append(Line(f"{'stored':<{LABEL}}in the {where} alone: {listed(names)}", 0, LABEL, "yellow", 6))
    lines.append(Line(_end(found), 0, 2, "bold"))
    write_lines(lines, style, stream)


def _names(change: TieChange) -> str:
    tied = [entry for entry in (change.before, change.after) if entry and (entry.kind in TIED or entry.declared)]
    return first_names(change.names, " = " if tied else ", ")


def _facts(change: TieChange, *, full: bool) -> Iterator[Line]:
    """Yield what each layer says of a group before and after, once where it says the same."""
    before, after = _told(change.before), _told(change.after)
    for label in dict.fromkeys([*before, *after]) if full else ():
        one, other = before.get(label), after.get(label)
        if one == other and label != "names":
            yield Line(f"{label:<{LABEL}}{one}", 4, LABEL, "dim", LABEL)
        elif one != other:
            yield Line(f"{label:<{LABEL}}{one or 'nothing'}", 4, LABEL, "dim", LABEL)
            yield Line(f"{'->':>{LABEL - 1}} {other or 'nothing'}", 4, LABEL)
    if change.values and full:
        yield Line(f"{'values':<{LABEL}}{change.values}", 4, LABEL, "dim", LABEL)
    if change.untold:
        yield Line(f"{'unknown':<{LABEL}}{change.untold}", 4, LABEL, "magenta", LABEL)


def _told(entry: TieEntry | None) -> dict[str, str]:
    return {} if entry is None else {"names": listed(entry.names), **dict(tie_facts(entry))}


def _end(found: TieComparison) -> str:
    counts = [f"{len(getattr(found, word))} {word}" for word in LISTS if getattr(found, word)]
    told = {True: "equal", False: "different", None: "not known"}[found.equal]
    return f"{told}: {', '.join(counts) or 'no tie group in either'}"
