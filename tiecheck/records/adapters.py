"""The records of an adapter and of the ties that it meets in its base."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison, Group
from tiecheck.records.words import Unknown


class Adapter(Record):
    """An adapter by its config and the names of its weights, which tell what was really adapted."""

    kind: str
    """PEFT's `peft_type` (`LORA`), or `mlx` for an adapter of mlx-lm."""
    base: str | None
    """The model that it names as its base, as it is written."""
    checkpoint: Checkpoint
    """Headers of its weights."""
    saved: tuple[str, ...]
    """Its `modules_to_save`."""
    ensured: bool
    """True where the config asks to keep ties (`ensure_weight_tying`)."""
    replicated: bool
    """True where layers of the base are repeated over the same weights (`layer_replication`)."""


class AdapterBase(Record):
    """The base of an adapter, by config and headers."""

    place: str
    """The directory, as it was named."""
    class_name: str | None
    model_type: str | None
    groups: tuple[Group, ...]
    """Its tie groups."""
    head: str | None
    """The class's head; None for a class without one, or one that the table does not have."""
    known: bool
    """True where the tie table has the class."""


Change = Literal["added", "copied", "tokens"]
"""Ways of an adapter with a module: an update `added` to its weight (LoRA and its kin), the whole weight `copied` and
trained (`modules_to_save`), the rows of some `tokens` trained (`trainable_token_indices`)."""


class AdaptedTie(Record):
    """A tie of the base that the adapter meets."""

    group: Group
    changes: tuple[tuple[str, Change], ...]
    """The members that the adapter changes, by the base's names, sorted, each with the way."""
    comparison: Comparison | Unknown | None
    """The copies that it holds of several members, held against each other; None where it holds fewer than two."""
    kept: bool = False
    """True where PEFT keeps the copies one tensor (`ensure_weight_tying`)."""

    def members(self, change: Change) -> tuple[str, ...]:
        """Return the members that are changed in one way."""
        return tuple(name for name, way in self.changes if way == change)

    @property
    def untouched(self) -> tuple[str, ...]:
        """Members that the adapter leaves alone."""
        changed = dict(self.changes)
        return tuple(name for name in self.group.names if name not in changed)


class AdapterTies(Record):
    """The whole of what an adapter does to the ties of its base."""

    adapter: Adapter
    base: AdapterBase
    ties: tuple[AdaptedTie, ...]
    """The ties that it meets, in the order of the groups."""
    homeless: tuple[str, ...]
    """Heads that it adapts and the base's class does not have."""
