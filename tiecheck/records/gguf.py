"""The records of a GGUF file and of the tie that it holds."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison, Group
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
