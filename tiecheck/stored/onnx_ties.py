"""Embedding tables of an ONNX file that stand in it once more as the matrix of a product, as they are or transposed."""

from __future__ import annotations

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.reshaped import compare_reshaped, compare_transposed
from tiecheck.records.artefacts import OnnxCopies, OnnxCopy, OnnxGraph
from tiecheck.records.stored import Comparison, StoredTensor

PAIRS = 64
"""Pairs of a table and a matrix of its size that are compared at most."""


def find_onnx_copies(graph: OnnxGraph) -> OnnxCopies:
    """Return the tables that a matrix holds once more; external data is read only for a pair that fits."""
    tables = [t for name in graph.tables if (t := graph.checkpoint.tensor(name)) is not None and len(t.shape) == 2]
    matrices = [t for name in graph.matrices if (t := graph.checkpoint.tensor(name)) is not None]
    pairs = [(t, m) for t in tables for m in matrices if m.name != t.name and _fits(t, m)]
    found = []
    for table, matrix in pairs[:PAIRS]:
        equal = _equal(graph, table, matrix)
        if equal is not None:
            found.append(OnnxCopy(table, matrix, equal))
    return OnnxCopies(tuple(found), graph.unread)


def _fits(table: StoredTensor, matrix: StoredTensor) -> bool:
    return matrix.dtype == table.dtype and matrix.shape in (table.shape, table.shape[::-1])


def _equal(graph: OnnxGraph, table: StoredTensor, matrix: StoredTensor) -> Comparison | None:
    """Return the comparison in the form in which two are equal; None where they are not, or cannot be read."""
    pair = (table, matrix)
    found = compare_bytes(graph.checkpoint, pair) if table.shape == matrix.shape else None
    if not isinstance(found, Comparison) or not found.alike:
        turned = compare_transposed if table.shape == matrix.shape else compare_reshaped
        found = turned(graph.checkpoint, pair)
    if not isinstance(found, Comparison) or not found.alike or found.form not in ("same", "transposed"):
        return None
    alone = compare_bytes(graph.checkpoint, (table, table))  # of one value over and over, equality means nothing
    return None if isinstance(alone, Comparison) and alone.constant else found
