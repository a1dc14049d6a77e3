"""Large checkpoints, made small: what `tests/benchmarks/bench_fix.py` measures with gigabytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mounted_disk
from fix_giants import content_of, fix_apart, kill_everywhere, linked, write_giant
from lanes import sampled

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.fix.run import FixOptions, fix_target


@pytest.mark.parametrize("sharded", sampled([True, False]))
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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 40 MiB."""
    with mounted_disk(tmp_path / "disk", "40m") as place:
        yield place


@pytest.mark.parametrize("used", [18, 23, 31, 38], ids=lambda used: f"{used} MiB beside")
def test_a_disk_that_is_really_full_loses_nothing(used: int, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is written; and where the space goes meanwhile, by the system itself."""
    write_giant(disk / "model", 1 << 20, sharded=True, sparse=False)
    (disk / "beside").write_bytes(bytes(used << 20))
    old = content_of(disk / "model")
    told = fix_apart(disk / "model")
    enough = used < 20
    assert (told.said == "") == enough, told
    assert (content_of(disk / "model") != old) == enough
    assert not list((disk / "model").glob(".tiecheck*"))
    if not enough:
        assert " free, and " in told.said
        monkeypatch.setattr("tiecheck.fix.writing.check_space", lambda *_: None)
        (disk / "rest").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        with pytest.raises(TargetError, match=r"No space left on device; it is as it was$"):
            fix_target(str(disk / "model"), Config(), FixOptions("tied", unsafe=True, apply=True, rehearse=False))
        assert content_of(disk / "model") == old
        assert not list((disk / "model").glob(".tiecheck*"))
