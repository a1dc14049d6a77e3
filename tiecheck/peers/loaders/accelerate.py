"""accelerate, which plans for a live module and asks no checkpoint: here so that `--for` can name its versions.

What each of its three algorithms sees is in `tiecheck/peers/views/accelerate.py`; rules on the live module say which of
them miss a tie (0.9.0 to 1.15.0, executed from the wheels).
"""

from tiecheck.peers.loaders.situation import Loader
from tiecheck.records.record import Record


class Releases(Record):
    """Releases in a row that have one algorithm."""

    versions: str
    """The range in words: `0.18-0.33`, `0.34-`, `0.20`."""
    since: tuple[int, int]
    """The first release that has it."""
    until: tuple[int, int] | None
    """The first release that no longer has it; None while the newest does."""


def _releases(since: tuple[int, int], until: tuple[int, int] | None) -> Releases:
    last = (until[0], until[1] - 1) if until else ()
    first, end = (".".join(map(str, numbers)) for numbers in (since, last))
    return Releases(first if since == last else f"{first}-{end}", since, until)


def _in_a_row(*firsts: tuple[int, int]) -> tuple[Releases, ...]:
    return tuple(_releases(since, until) for since, until in zip(firsts, (*firsts[1:], None), strict=True))


FINDERS = _in_a_row((0, 9), (0, 18), (0, 34))
"""The algorithms of `find_tied_parameters`. Those before the last do not see an alias among siblings."""

CONFIG_CHECKS = _in_a_row((0, 20), (0, 21), (1, 7))
"""The algorithms of `check_tied_parameters_in_config`."""

CLEANERS = _in_a_row((0, 25))
"""The algorithms of `clean_state_dict_for_safetensors`."""


def _both(one: Releases, other: Releases) -> Releases | None:
    since = max(one.since, other.since)
    until = min((releases.until for releases in (one, other) if releases.until), default=None)
    return _releases(since, until) if until is None or since < until else None


WARNERS = tuple(
    (both.versions, check.versions, find.versions)
    for check in CONFIG_CHECKS
    for find in FINDERS
    if (both := _both(check, find)) is not None
)
"""Versions that warn alike, with the algorithm of the config check and that of the finder they have."""

LOADERS = tuple(Loader("accelerate", *releases, "run", lambda _: None) for releases in FINDERS)
