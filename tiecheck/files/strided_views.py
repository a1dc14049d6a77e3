"""Views that share memory: exact arithmetic on addresses and strides, without torch and without reading.

An interval test settles dense views. Strided ones (columns, windows) are a bounded linear equation, as in
numpy 2's `shares_memory`; where the work passes a bound the answer is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from math import gcd
from operator import lt
from typing import NamedTuple

from tiecheck.records.words import Kind
from tiecheck.union_find import DisjointParts

STEPS = 20_000
"""Steps that one equation may take before the answer is "cannot be told"."""
PAIRS = 500_000
"""Pairs of strided views that are compared in one cluster before the rest is "cannot be told"."""
BITMAP = 1 << 26
"""Bytes a bitmap may span when two self-overlapping views are compared element by element."""


class ByteView(NamedTuple):
    """The bytes of one strided view: `start + sum(step * i)` for every `0 <= i < size` of each dimension."""

    space: Hashable
    """The memory that the address counts in: two spaces share nothing."""
    start: int
    """Address of the first byte."""
    dims: tuple[tuple[int, int], ...]
    """(step in bytes, size), by step, neighbours merged, so that equal tuples are equal sets."""

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.start + sum(step * (size - 1) for step, size in self.dims) + 1

    @property
    def dense(self) -> bool:
        """True where the view covers every byte from `start` to `end`."""
        return not self.dims or (len(self.dims) == 1 and self.dims[0][0] == 1)


class Shared(NamedTuple):
    """Views that hang together by memory."""

    members: tuple[int, ...]
    """Positions of the views, in order."""
    kind: Kind
    """`storage`: all cover the same bytes; `views_overlap`: some; `unknown`: it could not be told."""
    reason: str | None
    """Reason why it could not be told."""


def dims_of(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> tuple[tuple[int, int], ...]:
    """Return the byte dimensions of a view, of sizes and strides in elements, in their one normal form.

    That is (step, size) sorted by step; dimensions of size 1 or stride 0 are gone, neighbours that continue each other
    are merged, so a dense view of any shape and order of dimensions is `((1, nbytes),)`. No size is 0, no stride
    negative.
    """
    dims = sorted((step * itemsize, size) for step, size in zip(stride, shape, strict=True) if size > 1 and step > 0)
    merged = [(1, itemsize)]
    for step, size in dims:
        low, count = merged[-1]
        if step == low:  # a window over itself: {0..c-1} + {0..s-1}, in steps of `low`
            merged[-1] = (low, count + size - 1)
        elif step == low * count:
            merged[-1] = (low, count * size)
        else:
            merged.append((step, size))
    return tuple(dim for dim in merged if dim[1] > 1)


def dense_view(space: Hashable, start: int, end: int) -> ByteView:
    """Return a view of every byte from `start` to `end`."""
    return ByteView(space, start, dims_of((end - start,), (1,), 1))


def views_overlap(a: ByteView, b: ByteView) -> bool | None:
    """Tell whether two views share a byte; None where that takes too many steps to tell."""
    if a.space != b.space or a.end <= b.start or b.end <= a.start:
        return False
    if a.dense and b.dense:
        return True
    return _solve(*_equation(a, b))


def _equation(a: ByteView, b: ByteView) -> tuple[int, list[tuple[int, int]]]:
    """Overlap as `target = sum(step * x)` with `0 <= x <= bound`: b's indices are turned round to be positive."""
    target = b.end - 1 - a.start
    bounds: dict[int, int] = {}
    for step, size in (*a.dims, *b.dims):
        bounds[step] = bounds.get(step, 0) + size - 1
    return target, sorted(bounds.items(), reverse=True)


def _solve(target: int, terms: list[tuple[int, int]]) -> bool | None:
    """Tell whether the equation has a solution, by depth-first search with the divisor and the rest as guards."""
    divisors = [0] * (len(terms) + 1)
    rests = [0] * (len(terms) + 1)
    for i in range(len(terms) - 1, -1, -1):
        step, bound = terms[i]
        divisors[i] = gcd(divisors[i + 1], step)
        rests[i] = rests[i + 1] + step * bound
    stack = [(0, target)]
    for _ in range(STEPS):
        if not stack:
            return False
        i, left = stack.pop()
        if left == 0:
            return True
        if left < 0 or left > rests[i] or divisors[i] == 0 or left % divisors[i]:
            continue
        step, bound = terms[i]
        low = max(0, -((rests[i + 1] - left) // step))
        high = min(bound, left // step)
        if high - low >= STEPS:
            return None
        stack.extend((i + 1, left - step * x) for x in range(low, high + 1))
    return None


def same_bytes(a: ByteView, b: ByteView) -> bool | None:
    """Tell whether two views cover the same bytes; None where that is too much to tell."""
    if a.space != b.space or a.start != b.start or a.end != b.end:
        return False
    if a.dims == b.dims:
        return True
    if are_nested(a.dims) and are_nested(b.dims):
        return False
    if a.end - a.start > BITMAP:
        return None
    return view_bitmap(a) == view_bitmap(b)


def are_nested(dims: tuple[tuple[int, int], ...]) -> bool:
    """Tell whether each step passes everything below it: then the normal form is unique to the set."""
    reach = 0
    for step, size in dims:
        if step <= reach:
            return False
        reach += step * (size - 1)
    return True


def view_bitmap(view: ByteView) -> int:
    """Return a number with a bit for each byte of the view's span, set where the view covers it."""
    bits = 1
    for step, size in view.dims:
        done = 1
        while done < size:
            more = min(done, size - done)
            bits |= bits << (step * more)
            done += more
    return bits


def overlapping_runs(starts: Sequence[int], ends: Sequence[int]) -> Iterator[list[int]]:
    """Runs of two or more intervals, sorted by start, each of which begins before all earlier ones have ended."""
    # The next begins before one has ended somewhere, or nowhere: both columns sorted show which, by C loops.
    if not any(map(lt, islice(sorted(starts), 1, None), sorted(ends))):
        return
    top = 0
    run: list[int] = []
    previous = -1
    for i in sorted(range(len(starts)), key=starts.__getitem__):
        if starts[i] < top:
            if not run:
                run = [previous]
            run.append(i)
            top = max(top, ends[i])
        else:
            if run:
                yield run
                run = []
            top = ends[i]
        previous = i
    if run:
        yield run


def memory_groups(views: Sequence[ByteView]) -> list[Shared]:
    """Return the groups of views, none empty, that share memory, by first member; `storage` for the same bytes."""
    spaces: dict[Hashable, list[int]] = {}
    for i, view in enumerate(views):
        spaces.setdefault(view.space, []).append(i)
    found: list[Shared] = []
    for members in spaces.values():
        if len(members) > 1:
            starts = [views[i].start for i in members]
            for run in overlapping_runs(starts, [views[i].end for i in members]):
                found += _resolve([members[i] for i in run], views)
    return sorted(found)


def _resolve(run: list[int], views: Sequence[ByteView]) -> Iterator[Shared]:
    """Split a run of views whose spans overlap into those that really share bytes."""
    if all(views[i].dense for i in run):
        equal = len({(views[i].start, views[i].end) for i in run}) == 1
        yield Shared(tuple(sorted(run)), "storage" if equal else "overlap", None)
        return
    ends = [views[i].end for i in run]
    certain, possible = DisjointParts(len(run)), DisjointParts(len(run))
    known: dict[tuple[object, object, int], bool | None] = {}
    pairs = 0
    active: list[int] = []
    for j, b in enumerate(views[i] for i in run):
        active = [i for i in active if ends[i] > b.start]
        for i in active:
            if certain.find(i) == certain.find(j):
                continue
            a = views[run[i]]
            pairs += 1
            key = (a.dims, b.dims, b.start - a.start)
            if key not in known:
                known[key] = views_overlap(a, b) if pairs <= PAIRS else None
            if known[key] is not False:
                possible.join(i, j)
            if known[key]:
                certain.join(i, j)
        active.append(j)
    for group in possible.groups():
        if len(group) > 1:
            whole = len({certain.find(i) for i in group}) == 1
            yield _describe([run[i] for i in group], views, certain=whole)


def _describe(group: list[int], views: Sequence[ByteView], *, certain: bool) -> Shared:
    """Name what holds a group together."""
    members = tuple(sorted(group))
    if not certain:
        return Shared(members, "unknown", "whether the strided views share elements takes too many steps to tell")
    equal = [same_bytes(views[members[0]], views[i]) for i in members[1:]]
    if False in equal:
        return Shared(members, "overlap", None)
    if None in equal:
        return Shared(members, "unknown", "the views share memory; whether all of it is too much to tell")
    return Shared(members, "storage", None)
