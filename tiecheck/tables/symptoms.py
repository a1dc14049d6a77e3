"""The table of messages that libraries print, and the rules behind each: `tiecheck rule "a pasted warning"`."""

from __future__ import annotations

import os
from functools import cache

from tiecheck.records.record import Record

_TABLE = os.path.join(os.path.dirname(__file__), "symptoms.txt")


class Symptom(Record):
    """A message that people see."""

    says: str
    """The message; `...` for what varies."""
    codes: str
    """Rules that it may come from, likeliest first, a blank between them; one that there is not yet is passed over."""
    when: str = ""
    """When it is harmless, or what it means where no rule sees it."""
    more: str = ""
    """The rest of the message, by which a part of it is known."""


@cache
def read_symptoms() -> tuple[Symptom, ...]:
    """Return every message, the more precise of two before the other."""
    with open(_TABLE, encoding="utf-8") as table:
        return tuple(Symptom(*line.rstrip("\n").split("\t")) for line in table if not line.startswith("#"))
