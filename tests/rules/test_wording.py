"""What a comparison says in a sentence."""

from __future__ import annotations

import pytest

from tiecheck.records.stored import Comparison
from tiecheck.rules.stored.groups import rows_text
from tiecheck.wording import size

SOME = Comparison(False, 128, 128, 128, 0, 127, False)


@pytest.mark.parametrize(
    ("comparison", "says"),
    [
        (SOME, "128 of 128 rows differ"),
        (SOME._replace(max_difference=0.03125, rows_measured=128), "128 of 128 rows differ, by up to 0.0312"),
        (
            SOME._replace(max_difference=0.5, rows_measured=8),
            "128 of 128 rows differ, by up to 0.5 in the 8 of them that were measured",
        ),
        (SOME._replace(max_difference=3.0), "128 of 128 rows differ, by 3 or more"),
        (
            SOME._replace(max_difference=3.0, rows_measured=128, nonfinite=True),
            "128 of 128 rows differ, by up to 3, and NaN or infinity stands on one side alone",
        ),
        (
            SOME._replace(rows_differ=3, first_row=125, max_difference=1.0, rows_measured=3),
            "only the last 3 of 128 rows differ, from row 125 on, as after adding tokens, by up to 1",
        ),
        (
            SOME._replace(rows=9000, max_difference=1.0, rows_measured=128),
            "128 of the 128 rows compared differ (9,000 rows in all), by up to 1",
        ),
        (Comparison(False, 2, None, 0, None, None, False), "their bytes differ"),
    ],
)
def test_rows_are_counted_located_and_measured(comparison: Comparison, says: str) -> None:
    assert rows_text(comparison) == says


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (2**30, "1 GiB"),
        (10 * 2**30, "10 GiB"),
        (int(14.23 * 2**30), "14.2 GiB"),
        (int(1.5 * 2**30), "1.50 GiB"),
        (3 * 2**20, "3 MiB"),
        (2000 * 2**40, "2,000 TiB"),
    ],
)
def test_bytes_in_words(nbytes: int, words: str) -> None:
    assert size(nbytes) == words
