"""What stops a fleet: killed workers, a poison model, a killed driver, signals, a full disk, a broken table."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mounted_disk
from fleets import deadly_workers, drawn_fleet, rows_of, run_fleet, start_fleet, wait_for_rows
from lanes import sampled

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.fleet.engines import local
from tiecheck.fleet.listed import Listed
from tiecheck.fleet.results import read_row_groups
from tiecheck.fleet.run import EnginePlace, tally_rows
from tiecheck.fleet.sources import list_models

ENDS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    drawn_fleet(tmp_path / "fleet", 60, seed=21)
    return tmp_path / "fleet"


def each_once(table: Path, count: int) -> None:
    targets = Counter(row["target"] for row in rows_of(table))
    assert len(targets) == count
    assert set(targets.values()) == {1}


def test_a_poison_model_is_one_row_with_its_error(fleet: Path, tmp_path: Path, monkeypatch) -> None:
    deadly_workers(tmp_path, monkeypatch)
    (fleet / "0" / "m0").rename(fleet / "0" / "poison")
    found = run_fleet(fleet, results=tmp_path / "out.jsonl", place=EnginePlace(workers=2))
    each_once(tmp_path / "out.jsonl", 60)
    rows = [row for row in rows_of(tmp_path / "out.jsonl") if row["status"] == "error"]
    assert [os.path.basename(row["target"]) for row in rows] == ["poison"], rows
    (row,) = rows
    assert row["error"].endswith("killed its worker (SIGKILL), 3 times")
    assert (found.problem, found.summary.run.judged, found.summary.run.failed) == (None, 59, 1)


def test_workers_that_are_killed_lose_nothing(fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 4)
    killed = []
    made = local._Worker.__init__

    def noted(worker, *given) -> None:
        made(worker, *given)
        pool.append(worker.process)

    pool: list = []
    monkeypatch.setattr(local._Worker, "__init__", noted)

    def kill(*_: object) -> None:
        if len(killed) < 3:
            killed.append(pool[-1].pid)
            os.kill(pool[-1].pid, signal.SIGKILL)

    found = run_fleet(fleet, results=tmp_path / "out.jsonl", place=EnginePlace(workers=2), seen=kill)
    assert len(killed) == 3
    each_once(tmp_path / "out.jsonl", 60)
    assert (found.problem, found.summary.run.judged, found.summary.run.failed) == (None, 60, 0)


@pytest.mark.parametrize(("failing", "workers"), sampled([(2, 2), (4, 3), (5, 2), (1000, 2), (1000, 3)], 3))
def test_workers_that_end_as_they_start_end_the_run(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, workers: int
) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"told = {str(tmp_path / 'told')!r}\n"
        "if any('spawn_main' in word for word in sys.orig_argv):\n"
        "    with open(told, 'a') as file:\n"
        "        file.write('x')\n"
        f"    if os.path.getsize(told) <= {failing}:\n"
        "        os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "early"))
    found = run_fleet(fleet, results=tmp_path / "out.jsonl", place=EnginePlace(workers=workers))
    if failing <= local.STARTS:
        assert (found.problem, found.summary.run.judged, found.summary.run.failed) == (None, 60, 0)
        each_once(tmp_path / "out.jsonl", 60)
    else:
        assert found.problem == "worker processes end before they begin: the last ended its worker (status 7)"
        assert (tmp_path / "told").stat().st_size <= local.STARTS + 2 * workers
        assert rows_of(tmp_path / "out.jsonl") == []


def test_chunks_and_rows_of_more_than_a_pipe_holds(fleet: Path) -> None:
    names = frozenset(("config.json", "model.safetensors", *(f"note-{number:05}.txt" for number in range(20_000))))
    far = f"{fleet}/{'./' * 1500}"  # paths, and so rows, of 3,000 letters
    chunk = tuple(Listed(f"{far}{i % 7}/m{i}", None, None, names) for i in range(60))
    chunks = [chunk * 2] * 4
    done = list(local.judge_by_processes(iter(chunks), Config(), 1))
    assert [one.error for one in done] == [None] * 4
    assert all(one.judged and len(one.judged.lines) > 1 << 18 for one in done)


@pytest.mark.parametrize(
    ("ending", "workers"),
    sampled([(".jsonl", ()), (".jsonl", ("--workers", "2")), (".parquet", ("--workers", "2")), (".parquet", ())]),
)
def test_a_killed_driver_is_taken_up(tmp_path: Path, workers: tuple[str, ...], ending: str) -> None:
    drawn_fleet(tmp_path / "fleet", 1500, seed=22)
    table = tmp_path / f"out{ending}"
    journal = table if ending == ".jsonl" else tmp_path / "out.parquet.partial"
    process = start_fleet(tmp_path / "fleet", table, *workers)
    wait_for_rows(journal, process)
    process.kill()
    process.communicate()
    with journal.open("ab") as file:  # as a kill in the middle of a write leaves it
        file.write(b'{"row":"finding","target":"half')
    assert 0 < len(rows_of_lines(journal)) < 1500
    done = start_fleet(tmp_path / "fleet", table, "--resume", "-f", "json")
    out, told = done.communicate()
    run = json.loads(out)["fleet"]["run"]
    assert done.returncode == 1, told
    assert run["listed"] == 1500 == run["judged"] + run["skipped"]
    assert run["skipped"] > 0
    assert tally_rows(str(table)).plain["models"] == 1500
    assert not journal.exists() or journal == table


def rows_of_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if line.startswith(b'{"row":"model"')]


@pytest.mark.parametrize(("number", "workers"), sampled(itertools.product(ENDS, [(), ("--workers", "2")]), 3))
def test_a_signal_stops_with_everything_written(tmp_path: Path, number: int, workers: tuple[str, ...]) -> None:
    drawn_fleet(tmp_path / "fleet", 1500, seed=23)
    table = tmp_path / "out.jsonl"
    process = start_fleet(tmp_path / "fleet", table, *workers)
    wait_for_rows(table, process)
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume goes on" in told
    assert "Traceback" not in told
    written = len(rows_of(table))
    assert 0 < written < 1500
    assert f"{written:,} models: " in out
    found = run_fleet(tmp_path / "fleet", results=table, resume=True)
    assert found.summary.run.skipped == written
    each_once(table, 1500)


def test_a_signal_ends_a_list_that_comes_to_no_model(fleet: Path, tmp_path: Path, monkeypatch) -> None:
    def endless(_: object) -> Iterator[Listed]:
        yield from itertools.islice(list_models([str(fleet)]), 40)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on listing")

    monkeypatch.setattr("tiecheck.fleet.run.list_models", endless)
    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 20)
    found = run_fleet(fleet, results=tmp_path / "out.jsonl")
    assert (found.stopped, found.problem, found.summary.run.complete) == (signal.SIGTERM, None, False)
    each_once(tmp_path / "out.jsonl", 40)


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    drawn_fleet(tmp_path / "fleet", 400, seed=24)
    table = tmp_path / "out.jsonl"
    limit = 120_000  # bytes that a file may have: the system says so as it says that a disk is full
    process = start_fleet(
        tmp_path / "fleet", table, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, told = process.communicate()
    assert process.returncode == 2
    assert "cannot be written: File too large" in told
    assert "Traceback" not in told
    written = rows_of(table)
    assert 0 < len(written) < 400
    assert run_fleet(tmp_path / "fleet", results=table, resume=True).summary.run.skipped == len(written)
    each_once(table, 400)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 192 KiB, in memory."""
    with mounted_disk(tmp_path / "disk", "192k") as place:
        yield place


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path, ending: str) -> None:
    drawn_fleet(tmp_path / "fleet", 500, seed=27)
    table = small_disk / f"out{ending}"
    process = start_fleet(tmp_path / "fleet", table)
    _, told = process.communicate()
    assert process.returncode == 2
    assert "cannot be written: No space left on device" in told
    assert "Traceback" not in told
    (kept,) = small_disk.iterdir()  # no Parquet by half: a whole one, or the lines
    written = tally_rows(str(kept)).plain["models"]
    assert 0 < written < 500
    shutil.copy(kept, tmp_path / kept.name)
    found = run_fleet(tmp_path / "fleet", results=tmp_path / f"out{ending}", resume=True)
    assert (found.problem, found.summary.run.skipped) == (None, written)
    assert tally_rows(str(tmp_path / f"out{ending}")).plain["models"] == 500


@pytest.mark.parametrize("seed", range(12))
def test_a_broken_table_is_mended(tmp_path: Path, seed: int) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 30, seed=25)
    table = tmp_path / "out.jsonl"
    run_fleet(tmp_path / "fleet", results=table)
    whole = sorted(table.read_text().splitlines())
    draw = random.Random(seed)
    raw = bytearray(table.read_bytes())
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(raw))
        match draw.randrange(4):
            case 0:
                raw[at] ^= draw.randrange(1, 256)
            case 1:
                del raw[at : at + draw.randrange(600)]
            case 2:
                raw[at:at] = draw.randbytes(draw.randrange(40))
            case 3:
                end = raw.find(b"\n", at)
                raw[at:at] = raw[at : end + 1]  # a line, or its end, twice
    table.write_bytes(raw)
    found = run_fleet(tmp_path / "fleet", results=table, resume=True)
    run = found.summary.run
    assert found.problem is None
    assert run.listed == 30 == run.judged + run.skipped
    targets = Counter(row["target"] for row in rows_of(table))
    assert set(targets.values()) == {1}
    assert targets.keys() >= truth.keys()
    changed = sum(line not in whole for line in table.read_text().splitlines())
    assert changed <= 4  # a letter that was turned, in a row that still is one; also of a target that nobody lists then
    assert len(targets) - len(truth) <= changed


@pytest.mark.parametrize("seed", range(12))
def test_a_broken_parquet_is_refused_or_read_as_it_was(tmp_path: Path, seed: int) -> None:
    drawn_fleet(tmp_path / "fleet", 30, seed=26)
    table = tmp_path / "out.parquet"
    run_fleet(tmp_path / "fleet", results=table)
    whole, raw = list(read_row_groups(str(table))), bytearray(table.read_bytes())
    draw = random.Random(seed)
    at = draw.randrange(len(raw))
    match seed % 3:
        case 0:
            del raw[at:]
        case 1:
            raw[at] ^= draw.randrange(1, 256)
        case 2:
            raw[at : at + 64] = draw.randbytes(len(raw[at : at + 64]))
    table.write_bytes(raw)
    try:
        read = list(read_row_groups(str(table)))
    except TargetError:
        with pytest.raises(TargetError):
            run_fleet(tmp_path / "fleet", results=table, resume=True)
        assert table.read_bytes() == raw
    else:
        assert (read == whole, seed % 3 > 0) == (True, True)
        assert run_fleet(tmp_path / "fleet", results=table, resume=True).summary.run.skipped == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "out.parquet"]


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_a_file_that_is_no_table_is_left_as_it_is(tmp_path: Path, tiecheck_cli, name: str) -> None:
    drawn_fleet(tmp_path / "fleet", 3, seed=28)
    table = tmp_path / name
    if name.endswith(".jsonl"):
        table.write_text('{"id": 1, "text": "of somebody"}\n"a/b"\n')
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").table({"id": [1]}), table)
    before = table.read_bytes()
    found = tiecheck_cli("fleet", str(tmp_path / "fleet"), "--results", str(table), "--resume")
    assert (found.exit_code, f"{name} is no table of a fleet" in found.stderr) == (2, True)
    assert table.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "fleet"]


def test_a_pipe_that_is_closed_is_told(fleet: Path) -> None:
    command = f"{sys.executable} -m tiecheck fleet {fleet} -f jsonl | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["row"] == "model"
    assert "Traceback" not in done.stderr
