"""The records of `survive`: each tie of a model against each operation of its life."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.words import Kind

Family = Literal["torch", "state", "files", "transformers", "accelerate", "peft", "parallel", "training"]
"""Sort of operation: torch's own on modules, state dicts, files, libraries, wrapping for several devices, training."""


class SurvivedTie(Record):
    """One tie that the model has."""

    names: tuple[str, ...]
    """Its names, sorted; an element of a plain list as Python reaches it."""
    kind: Kind
    """The kind that it has."""


class Cell(Record):
    """One tie after one operation."""

    names: tuple[str, ...]
    """The tie."""
    before: Kind
    """The kind that it had."""
    after: Kind
    """The kind that it has."""
    kept: bool
    """True if it is as strong as before."""
    reason: str | None
    """Limit of what could be told, or what stands between a parameter and its use."""
    values: Literal["same", "changed"] | None
    """The values of its members against those before, cast where the operation casts; null where there are none."""
    moves: bool | None
    """True if a step on the first member was seen in all others; null where no step could be made."""


class Survival(Record):
    """One operation, really done to a fresh instance of the model."""

    operation: str
    """Its name."""
    words: str
    """Code of it, for a reader."""
    family: Family
    """The sort of operation."""
    by_nature: bool
    """True for an operation that is made to part or empty tensors: what it breaks is no finding."""
    status: Literal["ran", "skipped", "raised"]
    """`skipped`: a library is missing, or the operation does not go with this model; `raised`: the library refuses."""
    reason: str | None
    """Reason for the skip, or the error that was raised."""
    cells: tuple[Cell, ...]
    """One for each tie, where it ran."""
    made: tuple[tuple[str, ...], ...]
    """Groups that are tied now and were not."""
    lost: tuple[str, ...]
    """Of an operation that saves and loads: names whose values did not come back."""
    outputs: Literal["same", "differ"] | None
    """The logits of random tokens before and after; null where the model has none, or they could not be compared."""


class SurvivalMatrix(Record):
    """The ties of a model against the operations of its life."""

    target: str
    """The model."""
    ties: tuple[SurvivedTie, ...]
    """Its ties, in order of their names."""
    operations: tuple[Survival, ...]
    """Operations, in the order of the list."""
    declared: tuple[str, ...]
    """Names that its class declares as tied, whether they are or not."""
