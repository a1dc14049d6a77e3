"""Assertions about ties and the pytest plugin.

The plugin is imported by every pytest run of an environment: it imports the rest when it is used, and so does this.
"""

from typing import Any

__all__ = ["assert_not_tied", "assert_tied", "assert_ties_match"]


def __getattr__(name: str) -> Any:
    """Load an assertion from its module."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from tiecheck.testing import asserts

    return getattr(asserts, name)
