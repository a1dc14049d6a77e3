"""The records of an ONNX file."""

from __future__ import annotations

from tiecheck.records.record import Record
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor


class OnnxGraph(Record):
    """An ONNX file by its graph: initialisers, and what reads them."""

    checkpoint: Checkpoint
    """The initialisers whose data has a place, external ones in the file that is named for them."""
    tables: tuple[str, ...]
    """Names from which rows are gathered, as an embedding's."""
    matrices: tuple[str, ...]
    """Names that activations are multiplied by."""
    unread: tuple[str, ...]
    """Initialisers of those whose data has no place that is known."""


class OnnxCopy(Record):
    """An embedding table that stands in the file once more as a head's matrix."""

    table: StoredTensor
    matrix: StoredTensor
    comparison: Comparison
    """The two, with the form in which they are equal."""


class OnnxCopies(Record):
    """All that was found of tables that stand in a file once more."""

    found: tuple[OnnxCopy, ...]
    unread: tuple[str, ...]
    """Tables and matrices that could not be compared."""
