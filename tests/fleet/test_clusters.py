"""The same fleet by Dask and by Ray: really run, with workers that are killed and a model that kills them.

That is `tiecheck.fleet.engines.dask` and `tiecheck.fleet.engines.ray`, with `tiecheck.fleet.rows` between; the
last test asks by the command, `tiecheck.cli.fleet`.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fleets import deadly_workers, drawn_fleet, grave_codes, rows_of, run_fleet, start_fleet, wait_for_rows

from tiecheck.fleet.run import EnginePlace, tally_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # what a cluster's libraries warn of is theirs


def judged_alike(root: Path, place: EnginePlace, seen: Any = lambda *_: None) -> None:
    """Run a fleet with a model that kills its worker and one that does so once, and hold the rows against the truth."""
    truth = drawn_fleet(root / "fleet", 120, seed=31)
    poison, once, *_ = (Path(target) for target, codes in truth.items() if not codes)
    del truth[str(poison)]
    poison.rename(poison.parent / "poison")
    truth[str(once.rename(once.parent / "once"))] = truth.pop(str(once))
    found = run_fleet(root / "fleet", results=root / "out.jsonl", place=place, seen=seen)
    codes = grave_codes(root / "out.jsonl")
    (row,) = [row for row in rows_of(root / "out.jsonl") if row["status"] == "error"]
    assert row["target"].endswith("/poison")
    assert f"failed on {place.engine.capitalize()}" in row["error"]
    del codes[row["target"]]
    assert codes == truth
    run = found.summary.run
    assert (found.problem, run.listed, run.judged, run.failed) == (None, 120, 119, 1)


@pytest.mark.slow  # on a busy machine its nannies take minutes over a worker that dies again and again
def test_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 20)
    deadly_workers(tmp_path, monkeypatch)
    judged_alike(tmp_path, EnginePlace("dask", workers=2))


DYING = """
import asyncio, os, signal
def dask_setup(worker):
    async def die():
        while worker.status.name != "running":
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGKILL)
    if os.path.exists("ONCE.dead") and not os.path.exists("ONCE.again"):
        open("ONCE.again", "w").close()
        asyncio.ensure_future(die())
"""
"""A worker that dies while it starts, after another was killed: its nanny gives it up."""


@pytest.mark.slow
def test_a_dask_worker_that_is_given_up_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    deadly_workers(tmp_path, monkeypatch)
    truth = drawn_fleet(tmp_path / "fleet", 120, seed=36)
    once = next(Path(target) for target, codes in truth.items() if not codes)
    truth[str(once.rename(once.parent / "once"))] = truth.pop(str(once))
    (tmp_path / "dying.py").write_text(DYING.replace("ONCE", str(once.parent / "once")))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", str(tmp_path / "dying.py"))
    process = start_fleet(tmp_path / "fleet", tmp_path / "out.jsonl", "--engine", "dask", "--workers", "1")
    _, told = process.communicate(timeout=400)
    assert process.returncode == 1, told
    assert (once.parent / "once.again").exists()
    assert grave_codes(tmp_path / "out.jsonl") == truth


def test_a_dask_cluster_that_is_there_loses_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 5)
    truth = drawn_fleet(tmp_path / "fleet", 120, seed=32)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        killed = []

        def kill(*_: object) -> None:
            if not killed:
                killed.append(next(iter(cluster.workers.values())).process.pid)
                os.kill(killed[0], signal.SIGKILL)

        place = EnginePlace("dask", cluster.scheduler_address)
        found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl", place=place, seen=kill)
    assert killed
    assert grave_codes(tmp_path / "out.jsonl") == truth
    assert (found.problem, found.summary.run.judged) == (None, 120)


@pytest.mark.slow
def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 20)
    deadly_workers(tmp_path, monkeypatch)
    judged_alike(tmp_path, EnginePlace("ray", workers=2))


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_loses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr("tiecheck.fleet.run.CHUNK", 5)
    truth = drawn_fleet(tmp_path / "fleet", 120, seed=33)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        gone = []

        def remove(*_: object) -> None:
            if not gone:
                gone.append(node)
                cluster.remove_node(node, allow_graceful=False)

        place = EnginePlace("ray", cluster.address)
        found = run_fleet(tmp_path / "fleet", results=tmp_path / "out.jsonl", place=place, seen=remove)
    finally:
        cluster.shutdown()
    assert gone
    assert grave_codes(tmp_path / "out.jsonl") == truth
    assert (found.problem, found.summary.run.judged) == (None, 120)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_killed_driver_of_a_cluster_is_taken_up(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    truth = drawn_fleet(tmp_path / "fleet", 3000, seed=35)
    table = tmp_path / "out.jsonl"
    more = ("--engine", engine, "--workers", "2")
    process = start_fleet(tmp_path / "fleet", table, *more)
    wait_for_rows(table, process)
    process.kill()
    process.wait()
    before = sum(line.startswith('{"row":"model"') and line.endswith("}\n") for line in table.open())
    assert 0 < before < 3000
    done = start_fleet(tmp_path / "fleet", table, *more, "--resume", "-f", "json")
    out, told = done.communicate()
    run = json.loads(out)["fleet"]["run"]
    assert done.returncode == 1, told
    assert (run["listed"], run["judged"], run["skipped"]) == (3000, 3000 - before, before)
    assert Counter(row["target"] for row in rows_of(table)) == Counter(list(truth))
    assert grave_codes(table) == truth


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_signal_ends_a_cluster_with_everything_written(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    drawn_fleet(tmp_path / "fleet", 3000, seed=37)
    table = tmp_path / "out.parquet"
    process = start_fleet(tmp_path / "fleet", table, "--engine", engine, "--workers", "2")
    wait_for_rows(tmp_path / "out.parquet.partial", process)
    process.terminate()
    out, told = process.communicate(timeout=300)
    assert (process.returncode, "--resume goes on" in told) == (128 + signal.SIGTERM, True), told
    assert 0 < (written := tally_rows(str(table)).plain["models"]) < 3000
    assert f"{written:,} models: " in out


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_an_engine_that_is_not_installed_is_told(tmp_path: Path, monkeypatch, tiecheck_cli, engine: str) -> None:
    drawn_fleet(tmp_path / "fleet", 2, seed=34)
    monkeypatch.setitem(__import__("sys").modules, {"ray": "ray", "dask": "distributed"}[engine], None)
    found = tiecheck_cli("fleet", str(tmp_path / "fleet"), "--engine", engine)
    assert found.exit_code == 2
    assert f"pip install 'tiecheck[{engine}]'" in found.stderr
