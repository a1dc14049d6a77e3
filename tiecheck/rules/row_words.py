"""The words for which rows of two tensors differ, and by how much."""

from __future__ import annotations

from tiecheck.records.stored import Comparison


def rows(comparison: Comparison) -> str:
    """Tell how many rows differ, where, and by how much."""
    return _where(comparison) + _how_far(comparison)


def _where(comparison: Comparison) -> str:
    if comparison.rows_differ is None:
        return "their bytes differ"
    of = f"of {comparison.rows:,} rows"
    if comparison.rows_compared < comparison.rows:
        return f"{comparison.rows_differ:,} of the {comparison.rows_compared:,} rows compared differ ({of[3:]} in all)"
    tail = comparison.first_row is not None and comparison.last_row == comparison.rows - 1
    if tail and comparison.first_row and comparison.rows_differ == comparison.rows - comparison.first_row:
        return (
            f"only the last {comparison.rows_differ:,} {of} differ, from row {comparison.first_row:,} on, as after "
            "adding tokens"
        )
    return f"{comparison.rows_differ:,} {of} differ"


def _how_far(comparison: Comparison) -> str:
    """Tell the largest difference, and over how many rows it was looked for where that is not all of them."""
    odd = ", and NaN or infinity stands on one side alone" if comparison.nonfinite else ""
    if comparison.max_difference is None:
        return odd
    far = f"{comparison.max_difference:.3g}"
    measured = comparison.rows_measured
    if measured == comparison.rows_differ:
        return f", by up to {far}{odd}"
    return (
        f", by up to {far} in the {measured:,} of them that were measured" if measured else f", by {far} or more"
    ) + odd
