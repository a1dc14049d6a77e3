"""The arithmetic of strided views, against the plain set of bytes each one covers."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiecheck.files.strided_views import (
    ByteView,
    dense_view,
    dims_of,
    memory_groups,
    overlapping_runs,
    same_bytes,
    views_overlap,
)
from tiecheck.live.live_facts import find_live_ties

dims = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=3)


def covered(start: int, stride_and_size: list[tuple[int, int]], itemsize: int) -> set[int]:
    """Every byte of a view, one by one."""
    found = set()
    for index in product(*(range(size) for _, size in stride_and_size)):
        first = start + itemsize * sum(i * stride for i, (stride, _) in zip(index, stride_and_size, strict=True))
        found.update(range(first, first + itemsize))
    return found


def view(start: int, stride_and_size: list[tuple[int, int]], itemsize: int) -> ByteView:
    shape = [size for _, size in stride_and_size]
    return ByteView("", start, dims_of(shape, [stride for stride, _ in stride_and_size], itemsize))


rows = st.tuples(st.integers(0, 40), dims, st.sampled_from([1, 2, 4]))


@given(rows, rows)
@settings(max_examples=800, deadline=None)
def test_two_views_against_their_sets(one, other):
    a, b = view(*one), view(*other)
    a_set, b_set = covered(*one), covered(*other)
    assert (a.start, a.end) == (min(a_set), max(a_set) + 1)
    assert not a.dense or len(a_set) == a.end - a.start
    assert views_overlap(a, b) is bool(a_set & b_set)
    assert same_bytes(a, b) is (a_set == b_set)
    assert same_bytes(a, a) is True


@given(st.lists(st.tuples(st.integers(0, 60), dims), min_size=2, max_size=6))
@settings(max_examples=400, deadline=None)
def test_groups_against_their_sets(rows):
    sets = [covered(start, found, 1) for start, found in rows]
    group = list(range(len(sets)))
    for _ in sets:
        for i, j in product(range(len(sets)), repeat=2):
            if sets[i] & sets[j]:
                group[i] = group[j] = min(group[i], group[j])
    expected = {}
    for i, head in enumerate(group):
        expected.setdefault(head, []).append(i)
    found = memory_groups([view(start, row, 1) for start, row in rows])
    assert [list(g.members) for g in found] == sorted(g for g in expected.values() if len(g) > 1)
    for g in found:
        assert g.kind == ("storage" if len({frozenset(sets[i]) for i in g.members}) == 1 else "overlap")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_torch_views_against_their_elements(data):
    flat = torch.arange(64.0)
    module = nn.Module()
    sets = {}
    for name in "abc":
        shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        stride = data.draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
        part = flat.as_strided(shape, stride, data.draw(st.integers(0, 9)))
        sets[name] = frozenset(part.flatten().tolist())
        module.register_parameter(name, nn.Parameter(part))
    ties = find_live_ties(module)
    for one, other in ("ab", "ac", "bc"):
        together = any(one in tie.names and other in tie.names for tie in ties)
        assert together or not sets[one] & sets[other]
    for tie in ties:
        assert all(any(sets[n] & sets[m] for m in tie.names if m != n) for n in tie.names)
        assert tie.kind == ("storage" if len({sets[name] for name in tie.names}) == 1 else "overlap")


def test_dense_views_have_one_form():
    assert dims_of((4, 3), (3, 1), 4) == dims_of((3, 4), (1, 3), 4) == dims_of((12,), (1,), 4) == ((1, 48),)
    assert dims_of((1, 5), (99, 1), 2) == ((1, 10),)
    assert dims_of((), (), 1) == ()
    assert dense_view("", 5, 6) == ByteView("", 5, ())


def test_large_fused_columns_are_cheap_and_exact():
    width = 3 * 12_288
    q, k, v = (ByteView("", 2 * 12_288 * i, dims_of((12_288, 12_288), (width, 1), 2)) for i in range(3))
    assert [views_overlap(q, k), views_overlap(k, v), views_overlap(q, v)] == [False, False, False]
    assert memory_groups([q, k, v]) == []


def test_work_is_bounded():
    strides = [1_000_003, 1_000_033, 1_000_037, 1_000_039, 1_000_081]
    a = ByteView("", 0, dims_of([30] * 5, strides, 1))
    b = ByteView("", 29 * sum(strides) // 2 + 1, dims_of([30] * 5, [stride + 2 for stride in strides], 1))
    assert views_overlap(a, b) in {True, False, None}


def test_views_that_self_overlap_and_are_too_long_to_compare_are_unknown(monkeypatch):
    from tiecheck.files import strided_views

    monkeypatch.setattr(strided_views, "BITMAP", 8)
    windows = ByteView("", 0, ((1, 4), (2, 8)))
    whole = dense_view("", 0, windows.end)
    assert same_bytes(windows, whole) is None
    (group,) = memory_groups([windows, whole])
    assert (group.kind, group.reason is None) == ("unknown", False)


@pytest.mark.parametrize(
    ("intervals", "runs"),
    [
        ([], []),
        ([(0, 4), (4, 8)], []),
        ([(0, 12), (2, 4), (6, 10)], [[0, 1, 2]]),
        ([(0, 4), (3, 5), (5, 6), (10, 12), (10, 12)], [[0, 1], [3, 4]]),
    ],
)
def test_clusters(intervals, runs):
    assert list(overlapping_runs([start for start, _ in intervals], [end for _, end in intervals])) == runs
