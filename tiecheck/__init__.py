"""tiecheck finds broken weight tying in PyTorch models, and tells the truth about it.

The names below are loaded when they are first used: importing tiecheck imports neither torch nor click.

PYTEST_DONT_REWRITE: there is no assertion here to rewrite, and pytest would warn where tiecheck is imported before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiecheck._version import __version__

if TYPE_CHECKING:
    from tiecheck.api import check, compare, count_parameters, find_ties, inspect, survive, uses, views
    from tiecheck.errors import TiecheckError
    from tiecheck.guard.errors import PlacementError, TieBroken
    from tiecheck.guard.gate import Gate, gate
    from tiecheck.guard.lightning_callback import TieLightningCallback
    from tiecheck.guard.tie_guard import guard
    from tiecheck.guard.trainer_callback import TieCallback
    from tiecheck.testing.asserts import assert_not_tied, assert_tied, assert_ties_match

__all__ = [
    "Gate",
    "PlacementError",
    "TieBroken",
    "TieCallback",
    "TieLightningCallback",
    "TiecheckError",
    "__version__",
    "assert_not_tied",
    "assert_tied",
    "assert_ties_match",
    "check",
    "compare",
    "count_parameters",
    "find_ties",
    "gate",
    "guard",
    "inspect",
    "survive",
    "uses",
    "views",
]

_HOMES = {
    "check": "tiecheck.api",
    "compare": "tiecheck.api",
    "count_parameters": "tiecheck.api",
    "find_ties": "tiecheck.api",
    "inspect": "tiecheck.api",
    "uses": "tiecheck.api",
    "survive": "tiecheck.api",
    "views": "tiecheck.api",
    "Gate": "tiecheck.guard.gate",
    "gate": "tiecheck.guard.gate",
    "guard": "tiecheck.guard",
    "PlacementError": "tiecheck.guard.errors",
    "TieBroken": "tiecheck.guard.errors",
    "TieCallback": "tiecheck.guard.trainer_callback",
    "TieLightningCallback": "tiecheck.guard.lightning_callback",
    "TiecheckError": "tiecheck.errors",
    "assert_tied": "tiecheck.testing.asserts",
    "assert_not_tied": "tiecheck.testing.asserts",
    "assert_ties_match": "tiecheck.testing.asserts",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, and keep it."""
    if name not in _HOMES:
        message = f"module 'tiecheck' has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    if name == "guard":  # the package itself is called
        return import_module("tiecheck.guard")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
