"""Comparing remote tensors by ranges, where `--values always` asks for it: samples first, then the whole in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from tiecheck.errors import TargetError
from tiecheck.files.compare.equality import BLOCK, Constancy
from tiecheck.files.remote.store import Span, Store
from tiecheck.records.stored import Comparison, StoredTensor
from tiecheck.records.words import Unknown

SAMPLES = 8
SAMPLE = 4096
"""How many blocks are looked at first, and their bytes: a head that was trained differs in nearly all of them."""

RANGE = 1 << 20
"""Bytes of one range after that."""

WINDOW = 16 << 20
"""Bytes that are held at once, over all members."""


class RemoteComparer:
    """The bytes of a remote checkpoint, read only where somebody asks for them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def compare(self, tensors: Sequence[StoredTensor]) -> Comparison | Unknown:
        """Hold the bytes of some stored tensors against each other, up to the first difference.

        Args:
            tensors: Two or more, alike in dtype and shape.

        Returns:
            The comparison, rows not counted, or why it could not be made.
        """
        try:
            return self._compare(tensors)
        except TargetError as error:
            return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")

    def _compare(self, tensors: Sequence[StoredTensor]) -> Comparison:
        shape, nbytes = tensors[0].shape, tensors[0].nbytes
        rows = shape[0] if shape else 1
        different = Comparison(False, rows, None, 0, None, None, False)
        if nbytes > RANGE:
            last = nbytes - SAMPLE
            samples = [(last * i // (SAMPLES - 1), SAMPLE) for i in range(SAMPLES)]
            if not all(self._alike(tensors, samples)):
                return different
        constant = Constancy(nbytes, shape)
        together = max(1, WINDOW // (RANGE * len(tensors)))
        for begin in range(0, nbytes, RANGE * together):
            starts = range(begin, min(nbytes, begin + RANGE * together), RANGE)
            pieces = [(start, min(RANGE, nbytes - start)) for start in starts]
            if not all(self._alike(tensors, pieces, constant)):
                return different
        return Comparison(True, rows, 0, rows, None, None, constant.holds)

    def _alike(
        self, tensors: Sequence[StoredTensor], pieces: Sequence[tuple[int, int]], constant: Constancy | None = None
    ) -> list[bool]:
        """Of each piece, offset and length, whether all members agree; fetched together."""
        spans = [Span(t.file, (t.start or 0) + offset, count) for offset, count in pieces for t in tensors]
        raw = self._store.spans(spans)
        members = len(tensors)
        alike = []
        for i, (offset, count) in enumerate(pieces):
            blocks = raw[i * members : (i + 1) * members]
            alike.append(all(block == blocks[0] for block in blocks[1:]))
            if constant is not None and constant.holds:
                for at in range(0, count, BLOCK):
                    constant.take(blocks[0][at : at + BLOCK], offset + at)
        return alike
