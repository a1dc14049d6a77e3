"""Ties of one cause, told as one finding: eighteen pairs of one replicated layer are one mistake."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from tiecheck.records.edits import python_edit
from tiecheck.records.live import Tie
from tiecheck.rules.base import Draft
from tiecheck.wording import cause_of


def of_one_cause(ties: Iterable[Tie]) -> Iterable[list[Tie]]:
    """Return the ties that share memory alone, those of one cause together."""
    alike: dict[tuple[object, ...], list[Tie]] = {}
    for tie in ties:
        if tie.kind == "storage" and not tie.buffer:
            key = tie.device == "meta", any(tie.requires_grad), tie.alike, cause_of(tie.names)
            alike.setdefault(key, []).append(tie)
    return alike.values()


def joined_drafts(drafts: list[Draft]) -> Draft:
    """Return ties of one cause as one finding with all of their names, and the fixes of all."""
    first = drafts[0]
    codes = [step.code or "" for draft in drafts for edit in draft.edits[:1] for step in edit.steps]
    edits = first.edits[:1] if codes else ()
    if codes:
        lines = list(dict.fromkeys(line for code in codes for line in code.splitlines()))
        edits = (python_edit(first.edits[0].choice, first.edits[0].when, *lines, safe=first.edits[0].safe),)
    return first._replace(
        message=f"{first.message} So it is with {len(drafts) - 1} more groups of them, by the same cause.",
        names=tuple(sorted(name for draft in drafts for name in draft.names)),
        edits=edits,
    )


def joined_declarations(declarations: list[str]) -> str | None:
    """Return one declaration with the keys of several; None where one of them is no plain mapping."""
    keys: dict[str, str] = {}
    for text in declarations:
        try:
            keys |= ast.literal_eval(text.partition("=")[2].strip())
        except (ValueError, SyntaxError, TypeError):
            return None
    return f"_tied_weights_keys = {keys!r}"
