"""accelerate, which plans for a live module and asks no checkpoint: here so that `--for` can name its versions.

What each of its two algorithms sees is in `tiecheck/peers/views/accelerate.py`; rules on the live module say which of
them miss a tie (0.18.0 to 1.15.0, executed from the wheels).
"""

from tiecheck.peers.loaders.loader_rules import Loader
from tiecheck.records.record import Record


class Releases(Record):
    """Releases in a row that have one algorithm."""

    versions: str
    """The range in words: `0.18-0.33`, `0.34-`."""
    since: tuple[int, int]
    """The first release that has it."""
    until: tuple[int, int] | None
    """The first release that no longer has it; None while the newest does."""


FINDERS = (Releases("0.18-0.33", (0, 18), (0, 34)), Releases("0.34-", (0, 34), None))
"""The algorithms of `find_tied_parameters`. The first does not see an alias among siblings."""

CONFIG_CHECKS = (Releases("0.21-1.6", (0, 21), (1, 7)), Releases("1.7-", (1, 7), None))
"""The algorithms of `check_tied_parameters_in_config`."""

CLEANER = Releases("0.25-", (0, 25), None)
"""The one algorithm of `clean_state_dict_for_safetensors`."""

WARNERS = (("0.21-0.33", "0.21-1.6", "0.18-0.33"), ("0.34-1.6", "0.21-1.6", "0.34-"), ("1.7-", "1.7-", "0.34-"))
"""Versions that warn alike, with the algorithm of the config check and that of the finder they have."""

LOADERS = tuple(Loader("accelerate", *releases, "run", lambda _: None) for releases in FINDERS)
