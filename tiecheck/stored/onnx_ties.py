"""Embedding tables of an ONNX file that stand in it once more as the matrix of a product, as they are or transposed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.reshaped import compare_reshaped, compare_transposed
from tiecheck.records.artefacts import OnnxCopies, OnnxCopy, OnnxGraph
from tiecheck.records.stored import Comparison, StoredTensor

PAIRS = 64
"""Pairs of a table and a matrix of its size that are compared at most."""


def find_onnx_copies(graph: OnnxGraph) -> OnnxCopies:
    """Return the tables that a matrix holds once more; external data is read only for a pair that fits."""
    found = []
    tables, matrices = ([t for n in names if (t := graph.checkpoint.tensor(n)) is not None and len(t.shape) == 2]
                        for names in (graph.tables, graph.matrices))  # fmt: skip
    for table, matrix in islice(_fitting(tables, matrices), PAIRS):
        equal = _equal(graph, table, matrix)
        if equal is not None:
            found.append(OnnxCopy(table, matrix, equal))
    whole = {copy.table.name for copy in found}
    rest = (table for table in tables if table.name not in whole)
    found += [split for table in islice(rest, PAIRS) if (split := _split(graph, table, matrices)) is not None]
    return OnnxCopies(tuple(found), graph.unread)


def _split(graph: OnnxGraph, table: StoredTensor, matrices: list[StoredTensor]) -> OnnxCopy | None:
    """Return the first of the matrices that hold a table together, each a run of its rows; None where some are not."""
    if table.start is None or not table.nbytes:
        return None
    (rows, width), row, at = table.shape, table.nbytes // table.shape[0], 0
    parts = [m for m in matrices if m.dtype == table.dtype and width in m.shape]
    taken: list[tuple[StoredTensor, Comparison]] = []
    for _ in range(min(len(parts), PAIRS)):
        for part in parts[:PAIRS]:
            count = part.nbytes // row
            run = table._replace(shape=(count, width), nbytes=part.nbytes, start=table.start + at * row)
            if 0 < count <= min(rows - at, rows - 1) and (equal := _equal(graph, run, part)) is not None:
                taken.append((part, equal))
                at += count
                break
        else:
            return None
        if at == rows:
            return OnnxCopy(table, *taken[0], parts=len(taken))
    return None


def _fitting(tables: list[StoredTensor], matrices: list[StoredTensor]) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    """Yield each table with the other matrices of its size and type."""
    alike: dict[tuple[str, tuple[int, ...]], list[StoredTensor]] = {}
    for matrix in matrices:
        alike.setdefault((matrix.dtype, tuple(sorted(matrix.shape))), []).append(matrix)
    for table in tables:
        fitting = alike.get((table.dtype, tuple(sorted(table.shape))), ())
        yield from ((table, matrix) for matrix in fitting if matrix.name != table.name)


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
