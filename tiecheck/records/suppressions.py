"""Suppressions of findings: by a comment in a source, a baseline's entry, or the configuration file's allowance."""

from __future__ import annotations

from tiecheck.records.record import Record


class Allowance(Record):
    """One `[[tool.tiecheck.allow]]`: findings of some targets that are known and wanted."""

    target: str
    """The target as it is given, relative to the working directory; `*` and `?` as in a shell."""
    rule: str
    """Code of the rule, or the beginning of codes."""
    reason: str
    """The reason it is allowed; the report shows it."""
    names: tuple[str, ...] = ()
    """Members that the finding has to be about; empty for all."""
    place: str = ""
    """The file and section it stands in."""


class Accepted(Record):
    """One finding that a baseline accepts."""

    fingerprint: str
    code: str
    target: str
    """Its target, relative to the working directory."""
    names: tuple[str, ...]


class Unused(Record):
    """One suppression that takes nothing back."""

    what: str
    """The suppression in words."""
    path: str
    line: int | None
    """1-based line, where it is known."""
