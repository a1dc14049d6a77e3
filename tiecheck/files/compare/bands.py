"""Bands of the rows of a tensor: which hold rows that differ, and by how much, at one look."""

from __future__ import annotations

import math

BANDS = 64
"""Bands at most; of a tensor of fewer rows each row is one."""


class RowBands:
    """The largest difference seen in each band, filled as rows are found and measured."""

    def __init__(self, rows: int) -> None:
        """Begin with no row that differs, of so many."""
        self._rows = rows
        self._count = min(BANDS, rows)
        self._found: dict[int, float | None] = {}
        self._last = -1

    def add(self, row: int) -> None:
        """Note a row that differs."""
        band = row * self._count // self._rows
        if band != self._last:
            self._last = band
            self._found.setdefault(band, None)

    def measure(self, first: int, last: int, largest: float | None) -> None:
        """Note the largest difference of some rows, for the bands among them in which rows differ."""
        for band in range(first * self._count // self._rows, last * self._count // self._rows + 1):
            if largest is not None and band in self._found:
                self._found[band] = max(self._found[band] or 0.0, largest)

    def marks(self, compared: int) -> str:
        """Return a mark a band, as `Comparison.bands` has them, where the first so many rows were compared."""
        top = max((value for value in self._found.values() if value is not None), default=0.0)
        seen = -(-compared * self._count // self._rows)
        return "".join(self._mark(band, top) if band < seen else " " for band in range(self._count))

    def _mark(self, band: int, top: float) -> str:
        if band not in self._found:
            return "."
        value = self._found[band]
        return "?" if value is None else str(max(1, math.ceil(9 * (value / (top or 1.0)))))
