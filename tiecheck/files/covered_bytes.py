"""Bytes that some views cover together, each byte once: exact, without torch and without reading."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from math import prod

from tiecheck.files.strided_views import BITMAP, ByteView, are_nested, overlapping_runs, view_bitmap


def count_covered_bytes(views: Sequence[ByteView]) -> int | None:
    """Return the bytes that some views of one or more spaces, none empty, cover, however much they overlap.

    None where strided views mesh over so wide a span that it is too much to tell.
    """
    if len(views) == 1:
        return _one(views[0])
    spaces: dict[Hashable, list[ByteView]] = {}
    for view in views:
        spaces.setdefault(view.space, []).append(view)
    parts = [_space(held) for held in spaces.values()]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _one(view: ByteView) -> int | None:
    """Return the bytes of one view: the product of its sizes, unless it runs over itself."""
    if view.dense:
        return view.end - view.start
    if are_nested(view.dims):
        return prod([size for _, size in view.dims])
    return view_bitmap(view).bit_count() if view.end - view.start <= BITMAP else None


def _space(views: list[ByteView]) -> int | None:
    """Return the bytes of views over one memory: dense runs merged, then what is strided and outside of them."""
    runs = _merged([(view.start, view.end) for view in views if view.dense])
    total = sum(end - start for start, end in runs)
    strided = list({view: None for view in views if not view.dense and not _inside(view, runs)})
    starts = [start for start, _ in runs] + [view.start for view in strided]
    ends = [end for _, end in runs] + [view.end for view in strided]
    meshed: set[int] = set()
    for cluster in overlapping_runs(starts, ends):
        low, high = min(starts[i] for i in cluster), max(ends[i] for i in cluster)
        if high - low > BITMAP:
            return None
        bits = 0
        for i in cluster:
            if i < len(runs):
                bits |= ((1 << (ends[i] - starts[i])) - 1) << (starts[i] - low)
                total -= ends[i] - starts[i]
            else:
                meshed.add(i)
                bits |= view_bitmap(strided[i - len(runs)]) << (starts[i] - low)
        total += bits.bit_count()
    for i, view in enumerate(strided, len(runs)):
        if i not in meshed:
            alone = _one(view)
            if alone is None:
                return None
            total += alone
    return total


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted intervals without overlap that cover the same numbers."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _inside(view: ByteView, runs: list[tuple[int, int]]) -> bool:
    """Tell whether a view lies within one of some sorted intervals."""
    k = bisect_right(runs, view.start, key=lambda run: run[0]) - 1
    return k >= 0 and view.end <= runs[k][1]
