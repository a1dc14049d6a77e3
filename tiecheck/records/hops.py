"""The record of a wrapper on the way to a member."""

from __future__ import annotations

from tiecheck.records.record import Record


class Hop(Record):
    """A wrapper, as Python passes it on the way to a member."""

    path: str
    """Where it is, as its user calls it: what it wraps has the same path."""
    attribute: str
    """The attribute that holds what it wraps."""
    title: str
    passes: bool
    """True if it passes on the attributes of what it wraps, when they are read."""
    indexed: bool
    """True if it can be indexed."""
    own: tuple[str, ...]
    """The other modules that it registers."""
