"""The marks of a comparison say in which rows members differ, and by how much."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from fleets import EMBEDDING, HEAD, NORM, floats, write_model

import tiecheck
from tiecheck.files.compare.distance import BANDS


@pytest.mark.parametrize("seed", range(12))
def test_each_band_is_the_largest_difference_of_its_rows(tmp_path: Path, seed: int) -> None:
    """Drawn: rows, which of them differ, by how much; held against a count by hand, over rows of any length."""
    draw = random.Random(seed)
    rows = draw.choice([1, 2, 63, 64, 65, 99, 700, 5000])
    first = [[draw.gauss(0, 1) for _ in range(4)] for _ in range(rows)]
    differing = {
        row: draw.choice([1e-3, 0.1, 1.0, 8.0]) for row in draw.sample(range(rows), draw.randrange(1, rows + 1))
    }
    pack = lambda matrix: b"".join(struct.pack("<4f", *row) for row in matrix)  # noqa: E731
    other = [[*row[:3], row[3] + differing.get(i, 0)] for i, row in enumerate(first)]
    stored = {EMBEDDING: pack(first), HEAD: pack(other), NORM: floats(draw, 4)}
    folder = write_model(tmp_path / "m", stored, tie_word_embeddings=True, vocab_size=rows)
    (target,) = tiecheck.check(folder, values="always").targets
    (tie,) = target.ties
    count = min(BANDS, rows)
    assert tie.rows_apart is not None
    assert len(tie.rows_apart) == count
    top = max(differing.values())
    for band, mark in enumerate(tie.rows_apart):
        within = [size for row, size in differing.items() if row * count // rows == band]
        if not within:
            assert mark == "."
        elif rows <= BANDS:
            assert abs(int(mark) - max(1, -int(-9 * max(within) / top // 1))) <= 1
        else:  # rows that are measured together have the largest difference of them all
            assert int(mark) >= int(9 * max(within) / top)


def test_equal_members_have_no_marks(tmp_path: Path) -> None:
    rows = floats(random.Random(1), 32)
    folder = write_model(tmp_path / "m", {EMBEDDING: rows, HEAD: rows}, tie_word_embeddings=True)
    assert tiecheck.check(folder).targets[0].ties[0].rows_apart is None
