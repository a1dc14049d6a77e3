"""The records of a GGUF file and of the tie that it holds."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison, Group, StoredTensor
from tiecheck.records.words import Unknown


class Gguf(Record):
    """A GGUF model by its header: one file, or all that it is split into."""

    architecture: str
    """Its `general.architecture`, e.g. `gemma3`."""
    kind: str
    """Its `general.type`: `model`, or `adapter`, `mmproj` and what else is no whole model."""
    checkpoint: Checkpoint
    """Its tensors, with ggml's words for their types (`Q4_K`), shapes row-major."""


HeadUse = Literal["required", "fallback", "embedding", "none", "unknown"]
"""Ways of llama.cpp's loader with `output.weight`: an error where it is absent; the embedding in its place; the
embedding always, so that it must not be there; an architecture without a head; not read."""


class GgufTie(Record):
    """Embedding and head of a GGUF file."""

    group: Group
    use: HeadUse
    """The way of the loader of its architecture."""
    comparison: Comparison | Unknown | None
    """The two, held against each other; None where there are not two."""


class GgufSource(Record):
    """The checkpoint that a GGUF file is said to be converted from (`--from`)."""

    place: str
    """The directory, as it was named."""
    checkpoint: Checkpoint
    embedding: StoredTensor
    head: StoredTensor
    """The tensor that the head holds: the embedding where the two are tied."""

    @property
    def tied(self) -> bool:
        """True where embedding and head are one matrix."""
        return self.head.name == self.embedding.name


class RowFit(Record):
    """A tensor of a GGUF file, held row by row against one of its source, over the rows that both have."""

    rows: int
    differ: int
    """Rows that are further apart than their type's rounding explains."""
    first: int | None
    """The first of them."""


class Conversion(Record):
    """Embedding and head of a GGUF file beside those of the checkpoint that it was converted from."""

    source: GgufSource
    embedding: RowFit
    head: RowFit | None
    """`output.weight` beside the source's head; None where it is not stored."""
