"""The records of draft models and of draft layers inside a checkpoint."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.declared import ModelConfig
from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison


class DraftModel(Record):
    """A checkpoint that is a draft, or has draft layers."""

    config: ModelConfig
    target: Checkpoint | None
    """The model that it drafts for, where the user named it (`--target`)."""


class DraftProblem(Record):
    """A member that a draft lacks, or a borrowed copy that is not what it was borrowed from."""

    kind: Literal["no head", "shape", "layer", "target"]
    """No head where the loader takes none from the target; a tie declared between two shapes; a copy in a draft `layer`
    that differs from the model's own; an embedding that differs from the `target`'s."""
    names: tuple[str, ...]
    """The tensors, the draft's first."""
    file: str
    """The file that holds the first, or the config."""
    told: str
    """The sizes or the key that it hangs on."""
    comparison: Comparison | None = None
    """The two, held against each other."""
