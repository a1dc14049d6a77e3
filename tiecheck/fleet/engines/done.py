"""The work that goes to an engine, and the answer that comes back."""

from __future__ import annotations

from typing import NamedTuple

from tiecheck.fleet.rows import Judged
from tiecheck.fleet.sources import Listed

Chunk = tuple[Listed, ...]


class Done(NamedTuple):
    """A chunk that an engine is through with."""

    chunk: Chunk
    judged: Judged | None
    """The outcome; None where it could not be had, after the engine's own retries."""
    error: str | None
    """Reason why, as a sentence without its subject."""
