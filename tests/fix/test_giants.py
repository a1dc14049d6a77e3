"""Large checkpoints, made small: what `tests/benchmarks/bench_fix.py` measures with gigabytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fix_giants import content_of, fix_apart, kill_everywhere, linked, write_giant


@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "one file"])
def test_a_kill_at_each_write_loses_nothing(sharded: bool, tmp_path: Path) -> None:
    write_giant(tmp_path / "pristine", 1 << 20, sharded=sharded, sparse=sharded)
    ends = kill_everywhere(tmp_path / "pristine", tmp_path)
    assert ends == sorted(ends), "first the old files, from some write on the new ones"
    assert {*ends} == {False, True}


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    write_giant(tmp_path / "pristine", 1 << 20, sharded=True, sparse=False)
    there = linked(tmp_path / "pristine", tmp_path / "full")
    old = content_of(there)
    for limit in (100, 4096, 300_000):
        told = fix_apart(there, limit=limit)
        assert told.said.endswith("it is as it was"), told
        assert content_of(there) == old
        assert not list(there.glob(".tiecheck*"))


def test_memory_is_bounded(tmp_path: Path) -> None:
    write_giant(tmp_path / "pristine", 512 << 20, sharded=True, sparse=True)
    told = fix_apart(tmp_path / "pristine")
    assert told.said == ""
    assert told.grown < 64 * 1024
