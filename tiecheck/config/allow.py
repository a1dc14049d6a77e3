"""The allowances of a configuration file: findings of some targets that are known and wanted, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiecheck.errors import UsageError, did_you_mean
from tiecheck.records.suppressions import Allowance

KEYS_OF_ALLOW = ("target", "rule", "reason", "names")


def read_allowances(value: Any, check: Callable[[list[str]], object]) -> tuple[Allowance, ...]:
    """Read `[[tool.tiecheck.allow]]`, an array of tables; what is wrong, an unknown code too, is a `UsageError`."""
    if not isinstance(value, list):
        raise UsageError("allow must be an array of tables, [[tool.tiecheck.allow]]")
    return tuple(_allowance(row, f"allow, entry {i}", check) for i, row in enumerate(value, 1))


def _allowance(row: Any, place: str, check: Callable[[list[str]], object]) -> Allowance:
    if not isinstance(row, dict):
        raise UsageError(f"{place} must be a table with target, rule and reason, not {row!r}")
    for key in row:
        if key not in KEYS_OF_ALLOW:
            raise UsageError(f"{place}: there is no key {key!r}{did_you_mean(key, KEYS_OF_ALLOW)}")
    for key in KEYS_OF_ALLOW[:3]:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UsageError(f"{place}: {key} must be a text, and not empty")
    names = row.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{place}: names must be a list of strings, not {names!r}")
    try:
        check([row["rule"]])
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    return Allowance(row["target"], row["rule"], row["reason"], tuple(names))
