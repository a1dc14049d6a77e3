"""Finding the configuration file, from the working directory upwards, with a few calls of the system.

The file is `[tool.tiecheck]` of a pyproject.toml, or a tiecheck.toml whose keys stand at top level; what reads it is
handed in. A model's own folder is passed over: what was downloaded must not configure its checker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tiecheck.records.record import Record

OWN = "tiecheck.toml"
PROJECT = "pyproject.toml"
LIMIT = 4_000_000
"""Bytes of a configuration file that are read at most."""
SECTION = rb"""tool["']?[ \t]*(\.[ \t]*["']?tiecheck|\]|=)"""
"""Pattern of our section in a pyproject.toml, whichever way TOML lets one write it: other files are not parsed."""


class Settings(Record):
    """The say of one configuration file."""

    path: str
    """The file, relative to the working directory where it was found by walking up."""
    fields: dict[str, Any]
    """Fields of `Config` with their values."""


Read = Callable[[str], Settings | None]
"""Reader of a file that was found; it raises `UsageError`, and gives None where the file has nothing for us."""


def search_settings(read: Read, targets: Iterable[str] = ()) -> tuple[Settings | None, str | None]:
    """Find the nearest configuration file from the working directory upwards, and return what it says.

    The folder that a target is, or lies in, configures nothing: beside it comes the file that was passed over for that.
    A file that cannot be read, or has something wrong, is a `UsageError`.
    """
    passed = None
    for path in _candidates():
        if _is_models_own(path, targets):
            passed = passed or os.path.relpath(path)
            continue
        settings = read(path)
        if settings is not None:
            return settings, passed
    return None, passed


def _candidates() -> Iterator[str]:
    """Yield the files that may be ours, nearest first."""
    try:
        folder = os.getcwd()
    except OSError:  # the working directory is gone
        return
    while True:
        yield from files_in(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def files_in(folder: str) -> Iterator[str]:
    """Yield the files of one folder that may be ours."""
    own = os.path.join(folder, OWN)
    if os.path.isfile(own):
        yield own
    project = os.path.join(folder, PROJECT)
    if os.path.isfile(project) and _has_section(project):
        yield project


def _has_section(path: str) -> bool:
    """Tell whether a pyproject.toml may hold our section; one that cannot be read is for `parse_settings` to tell."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(LIMIT)
    except OSError:
        return True
    if b"tiecheck" not in data:
        return False
    import re

    return re.search(SECTION, data) is not None


def _is_models_own(path: str, targets: Iterable[str]) -> bool:
    """Tell whether a file lies in or below a target's own folder.

    What builds a model runs the user's own code, and has none.
    """
    folder = os.path.join(os.path.realpath(os.path.dirname(path)), "")
    for target in targets:
        local = target.removeprefix("file://")
        if os.path.lexists(local):
            real = os.path.realpath(local)
            if folder.startswith(os.path.join(real if os.path.isdir(real) else os.path.dirname(real), "")):
                return True
    return False
