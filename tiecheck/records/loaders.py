"""What one loader makes of one stored tie group."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.words import HURTS, Outcome


class LoaderView(Record):
    """What one loader, in one range of versions, ends up with for one tie group."""

    loader: str
    """The loader, by its package's name: `transformers`, `vllm`, `sglang`, `llama.cpp`, `mlx-lm`, `mergekit`."""
    versions: str
    """The versions that behave so, e.g. `4.57`, `5`, `<0.25`."""
    outcome: Outcome
    """What comes out."""
    message: str | None
    """What it prints or raises, or for `unknown` why it is not known."""
    checked: Literal["run", "source"]
    """How that is known: the loader itself was run in tests, or its source was read."""
    names: tuple[str, ...]
    """The group, by the names `Group.names` has."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; None where it reads none."""
    value: bool | None
    """What that flag says; None where it is not written: absent is not false."""
    ties: bool | None
    """Whether the loader takes the group for tied; None where that is not known."""

    @property
    def title(self) -> str:
        """The loader with its versions, as a sentence names it."""
        return f"{self.loader} {self.versions}" if self.versions else self.loader

    @property
    def hurts(self) -> bool:
        """Whether somebody who uses this loader loses something."""
        return self.outcome in HURTS
