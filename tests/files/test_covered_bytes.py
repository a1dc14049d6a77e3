"""How many bytes views cover together, against a set of every byte."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiecheck.files import strided_views
from tiecheck.files.covered_bytes import count_covered_bytes
from tiecheck.files.strided_views import ByteView, dims_of

strided = st.builds(
    lambda space, start, shape, stride, width: ByteView(space, start, dims_of(shape, stride[: len(shape)], width)),
    st.integers(0, 1),
    st.integers(0, 40),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
    st.sampled_from([1, 2, 4]),
)


def every_byte(view: ByteView) -> set[tuple[object, int]]:
    steps = [[step * i for i in range(size)] for step, size in view.dims]
    return {(view.space, view.start + sum(offsets)) for offsets in itertools.product(*steps)}


@given(st.lists(strided, min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_the_sum_is_the_number_of_bytes(views: list[ByteView]) -> None:
    assert count_covered_bytes(views) == len(set().union(*map(every_byte, views)))


def dense(start: int, size: int) -> ByteView:
    return ByteView("a", start, dims_of((size,), (1,), 1))


@pytest.mark.parametrize(
    ("views", "bytes_"),
    [
        ([dense(0, 10), dense(20, 10)], 20),
        ([dense(0, 10), dense(10, 10)], 20),
        ([dense(0, 10), dense(5, 10)], 15),
        ([dense(0, 100), dense(5, 10), dense(20, 10), dense(98, 4)], 102),
        ([dense(0, 10), dense(0, 10), dense(0, 10)], 10),
    ],
)
def test_dense_views(views: list[ByteView], bytes_: int) -> None:
    assert count_covered_bytes(views) == bytes_


def test_columns_of_a_matrix_that_is_there_too_cost_nothing_however_large() -> None:
    rows, columns = 1 << 20, 1 << 10
    matrix = ByteView("a", 0, dims_of((rows, columns), (columns, 1), 4))
    column = ByteView("a", 8, dims_of((rows,), (columns,), 4))
    assert count_covered_bytes([matrix, column]) == rows * columns * 4
    assert count_covered_bytes([column]) == rows * 4


def test_what_meshes_over_too_wide_a_span_is_unknown(monkeypatch) -> None:
    one = ByteView("a", 0, dims_of((100,), (3,), 4))
    other = ByteView("a", 4, dims_of((100,), (5,), 4))
    assert count_covered_bytes([one, other]) == len(every_byte(one) | every_byte(other))
    monkeypatch.setattr("tiecheck.files.covered_bytes.BITMAP", 100)
    assert count_covered_bytes([one, other]) is None
    assert strided_views.BITMAP > 100


def test_a_real_window_over_itself() -> None:
    windows = torch.arange(10.0).unfold(0, 4, 1)
    view = ByteView("a", 0, dims_of(windows.shape, windows.stride(), 4))
    assert count_covered_bytes([view]) == 40
