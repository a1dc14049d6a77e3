"""What differs between the planners of different releases.

accelerate: the wheels 0.25.0, 0.26.1, 0.27.2, 0.28.0, 0.29.3, 0.30.1 to 0.34.2, 1.0.1 to 1.3.0, 1.6.0, 1.7.0, 1.10.1
to 1.15.0 were compared (`utils/modeling.py`); transformers: 5.0.0, 5.5.0, 5.10.0 to
5.20.0 and 5.23.0 (`integrations/accelerate.py`). Those between are taken for like their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tiecheck.records.record import Record


class Release(Record):
    """A range of versions whose planners place alike."""

    tool: Literal["accelerate", "transformers"]
    """Whose."""
    versions: str
    """The range."""
    since: tuple[int, int]
    """The first version that has it."""
    dotted: bool
    """Whether a module's name is looked for in a tied name with a dot behind both, anywhere in it; else without."""
    prefix: bool
    """Whether what holds a tied name is looked for by its beginning (`startswith`); else anywhere in it (`in`)."""
    early: bool
    """The loop of before accelerate 1.2: whether a module fits is asked first without what is tied to it."""
    again: bool
    """Whether ties are found as accelerate before 0.34 does."""
    exempt: bool
    """Whether integers keep their size under `dtype=`."""
    tensors: bool
    """Whether a buffer of the root that does not fit is known to have no children; else it is asked for them."""
    once: bool
    """Whether a module that holds several tied names is counted once."""
    always: bool
    """Whether a module that does not fit with what is tied to it is split even where it fits by itself."""
    escapes: bool
    """Whether `_no_placement_params` may be left out of the map."""


def _release(tool: Literal["accelerate", "transformers"], versions: str, since: tuple[int, int], words: str) -> Release:
    """A release by the flags that hold for it."""
    held = words.split()
    return Release(tool, versions, since, *[field in held for field in Release._fields[3:]])


RELEASES = (
    _release("accelerate", "0.25", (0, 25), "early again"),
    _release("accelerate", "0.26", (0, 26), "early again dotted"),
    _release("accelerate", "0.27", (0, 27), "early again dotted exempt"),
    _release("accelerate", "0.28-0.33", (0, 28), "early again dotted exempt tensors"),
    _release("accelerate", "0.34-1.1", (0, 34), "early dotted exempt tensors"),
    _release("accelerate", "1.2", (1, 2), "dotted exempt tensors"),
    _release("accelerate", "1.3-", (1, 3), "dotted exempt tensors prefix"),
    _release("transformers", "5.0-5.12", (5, 0), "dotted exempt tensors prefix"),
    _release("transformers", "5.13-5.15", (5, 13), "dotted exempt tensors prefix once always"),
    _release("transformers", "5.16-", (5, 16), "dotted exempt tensors prefix once always escapes"),
)
"""Every range, oldest first. How memory is balanced is taken as it is now: transformers before 5.18 differs."""


def release_of(tool: str, version: str) -> Release | None:
    """The range a version belongs to; None for one that is older than all of them."""
    numbers = tuple(int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdecimal())
    fitting = [release for release in RELEASES if release.tool == tool and release.since <= numbers]
    return fitting[-1] if fitting else None


def joined(releases: Iterable[Release]) -> tuple[str, ...]:
    """The versions of some releases of one tool, with what is next to each other in one range."""
    found: list[tuple[str, str]] = []
    order = {release.versions: place for place, release in enumerate(RELEASES)}
    last = -2
    for release in releases:
        first, dash, end = release.versions.partition("-")
        end = end if dash else first
        place = order[release.versions]
        found[-1:] = [(found[-1][0], end)] if place == last + 1 else [*found[-1:], (first, end)]
        last = place
    return tuple(first if first == end else f"{first}-{end}" for first, end in found)
