"""The contents of a configuration file: read whole, and told in one sentence where something in it is wrong.

`discovery` looks for the file; this module and tomllib are imported only where there is one.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable
from typing import Any

from tiecheck.config.discovery import LIMIT, PROJECT, Settings
from tiecheck.config.options import LONGEST, PLACING, VALUES, read_contract
from tiecheck.errors import UsageError, did_you_mean
from tiecheck.records.record import Record
from tiecheck.records.report import SEVERITIES
from tiecheck.records.suppressions import Allowance

KEYS = {
    "select": "select",
    "ignore": "ignore",
    "fail-on": "fail_on",
    "strict": "strict",
    "values": "values",
    "for": "judge_for",
    "offline": "offline",
    "timeout": "timeout",
    "ties": "ties",
    "allow": "allow",
    "baseline": "baseline",
    "device-map": "device_map",
    "max-memory": "max_memory",
    "dtype": "dtype",
    "no-split": "no_split",
    "hash-seeds": "hash_seeds",
}
"""Key in the file -> field of `Config`."""


class Checks(Record):
    """Checks of the words that other rooms define."""

    codes: Callable[[list[str]], object]
    """Raises `UsageError` for a code that no rule has."""
    loaders: Callable[[list[str]], object]
    """Raises `UsageError` for a loader that the matrix lacks."""
    placing: Callable[[dict[str, Any], str], dict[str, Any]]
    """Reads the options of a placement; its second argument is what relative paths count from."""


def parse_settings(path: str, checks: Checks, *, asked: bool = True) -> Settings | None:
    """Read one configuration file; one that was `asked` for by name has to have something for us.

    A file that cannot be read, or has something wrong, is a `UsageError` with file and key.
    """
    shown = path if asked else os.path.relpath(path)
    table = _parse(path, shown)
    section = ""
    if os.path.basename(path) == PROJECT or ("tool" in table and not KEYS.keys() & table):
        section = "tool.tiecheck"
        tool = table.get("tool")
        if not isinstance(tool, dict) or "tiecheck" not in tool:
            if asked:
                raise UsageError(f"{shown} has no [tool.tiecheck]", path)
            return None
        table = tool["tiecheck"]
        if not isinstance(table, dict):
            raise UsageError(f"{shown}: {section} must be a table, not {table!r}", path)
    try:
        placing = {KEYS[key]: value for key, value in _known(table).items() if KEYS[key] in PLACING}
        fields = {KEYS[key]: _value(key, value, checks) for key, value in table.items() if KEYS[key] not in PLACING}
        fields |= _placing(placing, path, checks)
    except UsageError as error:
        place = f"{shown} [{section}]" if section else shown
        raise UsageError(f"{place}: {error}", path) from error
    if "device-map" in fields.get("device_map_from", ()):
        fields["device_map_from"] = f"{shown} [{section}]" if section else shown
    if "allow" in fields:
        fields["allow"] = tuple(entry._replace(place=shown) for entry in fields["allow"])
    if "baseline" in fields:
        fields["baseline"] = os.path.relpath(os.path.join(os.path.dirname(path), fields["baseline"]))
    if "ties" in fields:
        fields["ties_from"] = f"{shown} [{section}.ties]" if section else f"{shown} [ties]"
    return Settings(shown, fields)


def _parse(path: str, shown: str) -> dict[str, Any]:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a folder's own error says it better
            raise UsageError(f"{shown} is a pipe or a device, not a regular file", path)
        if found.st_size > LIMIT:
            raise UsageError(f"{shown} has {found.st_size:,} bytes, more than the {LIMIT:,} that are read", path)
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or error}", path) from error
    except (ValueError, RecursionError) as error:  # tomllib's own and a byte that is no UTF-8 are ValueErrors
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{shown} is no valid TOML: {why}", path) from error


def _placing(given: dict[str, Any], path: str, checks: Checks) -> dict[str, Any]:
    """Return the options of a placement; the path of a map counts from the file's folder."""
    if not given:
        return {}
    folder = os.path.relpath(os.path.dirname(path) or os.curdir)
    return checks.placing(given, "" if folder == os.curdir else folder)


def _known(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table all of whose keys are known."""
    for key in table:
        if key not in KEYS:
            raise UsageError(f"there is no key {key!r}{did_you_mean(key, KEYS)}")
    return table


def _value(key: str, value: Any, checks: Checks) -> Any:
    """Return one value as `Config` holds it."""
    if key == "ties":
        return read_contract(value, key)
    if key == "allow":
        return read_allowances(value, checks.codes)
    if key in {"select", "ignore", "for"}:
        return _words(key, value, checks.loaders if key == "for" else checks.codes)
    wrong = _wrong(key, value)
    if wrong:
        raise UsageError(f"{key} must be {wrong}")
    return value


def _wrong(key: str, value: Any) -> str:
    """Return what a plain value has to be, where it is something else."""
    if key in {"strict", "offline"}:
        return "" if isinstance(value, bool) else f"true or false, not {value!r}"
    if key == "baseline":
        return "" if isinstance(value, str) and value else f"the path of a file, not {value!r}"
    if key == "timeout":
        fine = not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value <= LONGEST
        return "" if fine else f"a number of seconds, 0 for no end, not {value!r}"
    words = SEVERITIES if key == "fail-on" else VALUES
    hint = did_you_mean(value, words) if isinstance(value, str) else ""
    return "" if value in words else f"one of {', '.join(words)}, not {value!r}{hint}"


def _words(key: str, value: Any, check: Callable[[list[str]], object]) -> tuple[str, ...]:
    """Return a list of words that the engine knows, told here so that the sentence names the file."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UsageError(f'{key} must be a list of strings, as ["{_example(key)}"], not {value!r}')
    try:
        check(value)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error
    return tuple(value)


def _example(key: str) -> str:
    return "vllm" if key == "for" else "TIE101"


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
