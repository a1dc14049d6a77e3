"""The table of releases: which classes came with which release of transformers 5, and which tied otherwise before.

It is made by `python -m tiecheck.tables.generate.releases`, which asks the releases themselves; here it is searched.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

from tiecheck.records.record import Record

Release = tuple[int, int]
"""A minor release, e.g. (5, 18)."""

PATH = os.path.join(os.path.dirname(__file__), "releases.txt")
"""The table."""


class OtherTies(Record):
    """A range of releases in which a class ties a group otherwise than in the newest."""

    since: Release
    """The first of them."""
    until: Release
    """The first that ties it as the newest does."""
    names: tuple[str, ...]
    """Names of the group, with `#` for every number: a build has few layers, and all are alike."""
    silent: bool | None
    """True where the group is tied with no flag in the config; None where such a config is refused."""
    on: bool | None
    """The same where every flag is true."""
    off: bool | None
    """The same where every flag is false."""


def any_number(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names with `#` for every number, sorted."""
    return tuple(sorted(re.sub(r"\d+", "#", name) for name in names))


@lru_cache(1)
def known_releases() -> tuple[Release, ...]:
    """Return the releases that were asked, oldest first."""
    return tuple(release_of(word) for word in _lines()[0].split("\t")[2].split())


@lru_cache(512)
def other_ties(class_name: str, model_type: str | None) -> tuple[OtherTies, ...]:
    """Return the groups that a class ties otherwise in an earlier release, by range and names."""
    rows = (line.split("\t") for line in _lines() if line.startswith(f"{class_name}\t"))
    return tuple(
        OtherTies(release_of(since), release_of(until), tuple(names.split()), *(_BITS.get(bit) for bit in bits))
        for _, types, since, until, bits, names in rows
        if model_type is None or model_type in types.split(",")
    )


def first_release(class_name: str) -> Release | None:
    """Return the release that a class came with; None for one that was there before the first release asked."""
    return _newcomers().get(class_name)


@lru_cache(1)
def first_with_copies() -> Release:
    """Return the first release that takes stored members with equal values for one tensor."""
    return next(release_of(line.split("\t")[1]) for line in _lines() if line.startswith("*"))


@lru_cache(1)
def _newcomers() -> dict[str, Release]:
    found = (line[1:].split("\t") for line in _lines() if line.startswith("+"))
    return {name: release_of(word) for word, names in found for name in names.split(",")}


_BITS = {"0": False, "1": True}


def release_of(word: str) -> Release:
    """Return the minor release that a version is of."""
    major, minor = word.split(".")[:2]
    return int(major), int(minor)


@lru_cache(1)
def _lines() -> list[str]:
    with open(PATH, encoding="utf-8") as file:
        return file.read().splitlines()
