"""The records of what a model lives through: ties that broke, with operation and line, and the matrix of `survive`."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.hops import Route
from tiecheck.records.record import Record
from tiecheck.records.words import Kind


class UserLine(Record):
    """A line of the user's own code, and what it called."""

    path: str
    """The file, as Python knows it."""
    line: int
    """1-based line."""
    code: str
    """The line itself, stripped; empty where the file cannot be read."""
    operation: str
    """Call that the line made, as `Module.half`, or the assignment."""
    in_file: bool = False
    """True if the path is that of a file, and not what an interpreter or a notebook calls its input."""


class Break(Record):
    """A tie that was there and is not any more."""

    names: tuple[str, ...]
    """The group, sorted."""
    before: Kind
    """The kind that it had."""
    after: Kind
    """The kind that it has now; the one it had, where it is one parameter still and is not used as one."""
    reason: str | None
    """Limit of what could be told, or what stands between the parameter and its use."""
    parts: tuple[tuple[str, ...], ...]
    """The members split into those that are one tensor now."""
    since: UserLine | None
    """The line that broke it; or, where that was not seen, the last one after which it was whole."""
    until: UserLine | None = None
    """None where `since` broke it; else the line before which it was found broken."""
    seen: bool = True
    """True if `since` is known to have broken it."""
    moved: tuple[tuple[str, str], ...] = ()
    """Members whose parameter has another name now, by a norm or a parametrization, each with that name."""
    alike: bool = False
    """True if no value is lost whichever member stays: they are one memory, or `to_empty` has given them none."""
    writes: UserLine | None = None
    """Of a break that nobody saw the only line in between that writes into the dicts of a module."""
    route: Route = Route()
    """The way to its names."""
    sharded: bool = False
    """True if FSDP2 has sharded parts of the model."""

    @property
    def operation(self) -> str:
        """The operation that broke it; empty where nobody saw it."""
        return self.since.operation if self.since is not None and self.seen else ""


class Overwritten(Record):
    """A tied tensor whose values were drawn anew through one of its names."""

    names: tuple[str, ...]
    by: UserLine
    """The line that did it, and the initialiser."""


class GroupPlace(Record):
    """One place where an optimizer holds a tensor."""

    optimizer: int
    """Position among the optimizers that were given."""
    optimizers: int
    title: str
    """Class of the optimizer."""
    group: int
    """Position of its parameter group."""
    settings: tuple[tuple[str, str], ...]
    """Settings of the group, as text."""
    matrix: bool
    """True for a group that orthogonalises matrices (Muon)."""


class HeldTensor(Record):
    """A tensor that optimizers hold, or that they should."""

    names: tuple[str, ...]
    """Its names in the model, sorted; empty for one that the model does not have."""
    shape: tuple[int, ...]
    slots: tuple[GroupPlace, ...]
    """Where it is held; empty for a parameter of the model that trains and is in no optimizer."""
    table: bool
    """True if an embedding registers it, or it is the weight of the model's output embedding."""
    trains: bool = True
    """False for one of the model's that is frozen."""


class SharedAcross(Record):
    """Tensors that two models have under the same names, and how they hang together."""

    other: int
    """Position of the other model among those that were given."""
    title: str
    """Its class."""
    form: Literal["whole", "object", "memory", "copies"]
    """`whole`: every parameter is the same object; `object`: these are; `memory`: different parameters over one memory;
    `copies`: frozen in both, equal, and held twice."""
    names: tuple[str, ...]
    """The names in the model, sorted."""
    trains: bool
    """True if one of them takes part in training, in either model."""
    paths: tuple[str, ...] = ()
    """The places where the other model has it, as Python reaches them; of `copies` in the order of the names."""


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
