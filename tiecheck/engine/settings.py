"""The configuration file, its codes, loaders and placements held against what there is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tiecheck.config.discovery import Settings
from tiecheck.config.discovery import find_settings as find


def read_settings(path: str, *, asked: bool = True) -> Settings | None:
    """Read one configuration file; see `config.file.read_settings`."""
    from tiecheck.config.file import Checks
    from tiecheck.config.file import read_settings as read

    return read(path, Checks(_codes, _loaders, _placing), asked=asked)


def find_settings(targets: Iterable[str] = ()) -> tuple[Settings | None, str | None]:
    """Find the nearest configuration file; see `config.discovery.find_settings`."""
    return find(lambda path: read_settings(path, asked=False), targets)


def _codes(words: list[str]) -> object:
    from tiecheck.rules.registry import select

    return select(words, (), ())


def _loaders(words: list[str]) -> object:
    from tiecheck.peers.loaders.registry import parse_for

    return parse_for(words)


def _placing(given: dict[str, Any], folder: str) -> dict[str, Any]:
    from tiecheck.placement.asked.options import read_placing

    return read_placing(given, lambda field: field.replace("_", "-"), text=True, folder=folder)
