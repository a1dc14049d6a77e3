"""The outcomes of stored tie groups in loaders."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.words import HURTS, Outcome


class LoaderView(Record):
    """The end of one tie group in one loader, in one range of versions."""

    loader: str
    """The loader, by its package's name: `transformers`, `vllm`, `sglang`, `llama.cpp`, `mlx-lm`, `mergekit`."""
    versions: str
    """The versions that behave so, e.g. `4.57`, `5`, `<0.25`."""
    outcome: Outcome
    message: str | None
    """Text it prints or raises; for `unknown` the reason."""
    checked: Literal["run", "source", "rehearsed"]
    """Source of that knowledge: the loader was run in tests, its source was read, or it was run on this checkpoint."""
    names: tuple[str, ...]
    """The group, by the names `Group.names` has."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; None where it reads none."""
    value: bool | None
    """Value of that flag; None where it is not written: absent is not false."""
    ties: bool | None
    """True where the loader takes the group for tied; None where that is not known."""
    stopped: bool = False
    """True where something else ends the whole load in this outcome, whatever the ties are."""

    @property
    def title(self) -> str:
        """The loader with its versions, as a sentence names it."""
        return f"{self.loader} {self.versions}" if self.versions else self.loader

    @property
    def line(self) -> str:
        """The versions; of transformers 5 its whole line, for a range of its releases too."""
        return "5" if self.loader == "transformers" and self.versions.startswith("5.") else self.versions

    def among(self, chosen: Container[tuple[str, str]] | None) -> bool:
        """Tell whether `--for` means it, whose loaders are pairs of name and versions.

        Where it names none, every loader is meant by its newest release: what only an earlier one of transformers 5
        does is told, and fails nobody who does not name that release.
        """
        return self.versions == self.line if chosen is None else (self.loader, self.versions) in chosen

    @property
    def hurts(self) -> bool:
        """True where somebody who uses this loader loses something."""
        return self.outcome in HURTS


class LoaderOutcome(Record):
    """The end of some tie groups in one loader, as reported."""

    loader: str
    """The loader."""
    versions: str
    """The versions that behave so."""
    outcome: Outcome
    """Outcome, e.g. `head-discarded`."""
    message: str | None
    """Text it prints or raises, where it does; for `unknown` the reason."""
    checked: Literal["run", "source", "rehearsed"]
    """Source of that knowledge: the loader was run in tests, its source was read, or it was run on this checkpoint."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; null where it reads none."""
    value: bool | None
    """Value of that flag; null where it is not written."""
    ties: bool | None
    """True where it takes the group for tied; null where it asks no flag or that is not known."""
    groups: int
    """Number of tie groups that come out so."""
    names: tuple[str, ...]
    """The members of those groups, sorted; capped."""
