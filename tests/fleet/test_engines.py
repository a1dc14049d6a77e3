"""An engine whose library is not there: told before a model is taken from the list."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError
from tiecheck.fleet.engines.dask import judge_by_dask
from tiecheck.fleet.engines.ray import judge_by_ray


@pytest.mark.parametrize(
    ("judge", "library", "extra"), [(judge_by_dask, "distributed", "dask"), (judge_by_ray, "ray", "ray")]
)
def test_without_its_library_an_engine_takes_no_model(
    judge: Callable[..., Iterator[Any]], library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    taken: list[int] = []
    chunks = (taken.append(1) or () for _ in range(3))
    with pytest.raises(MissingExtraError, match=rf"--engine {extra} .*pip install 'tiecheck\[{extra}\]'"):
        next(iter(judge(chunks, Config(), None, 1)))
    assert not taken
