"""What planners are asked for in the tests."""

from __future__ import annotations

from tiecheck.records.placement import Ask


def asks_of(total: int) -> list[Ask]:
    """Memory that is enough, tight, tighter with cpu and disk; and each strategy.

    Args:
        total: Bytes of the model.
    """
    third = max(total // 3, 1)
    return [
        Ask("auto", {0: 4 * total, "cpu": 4 * total}),
        Ask("auto", {0: third * 2, 1: third * 2, "cpu": third}),
        Ask("auto", {0: third, 1: third // 2, "cpu": third // 2}),
        Ask("balanced_low_0", {0: total, 1: total, 2: total, "cpu": total}),
        Ask("sequential", {0: third * 2, 1: third, "cpu": third}),
        Ask("sequential", {"cpu": third * 2}),
    ]
