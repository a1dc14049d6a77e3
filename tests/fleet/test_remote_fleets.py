"""Fleets on an organisation of the hub and in a bucket, from servers that answer late, not at all, or by half."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fleets import drawn_fleet, rows_of, run_fleet
from servers import Files, Handler

from tiecheck.config.options import Config
from tiecheck.engine.run import check_target

Models = dict[str, dict[str, bytes]]


class OrganisationHub(Files):
    """A hub with the models of one organisation, listed page by page; some of its answers are spoilt by `faults`."""

    def __init__(self, models: Models, page: int) -> None:
        super().__init__({})
        self.models, self.page = models, page
        self.faults: Iterator[str | None] = iter(())
        self.spoilt = 0
        self.fault = self._route

    def _route(self, handler: Handler) -> bool:
        parts = urlsplit(handler.path)
        with self.lock:
            fault = next(self.faults, None)
            self.spoilt += fault is not None
        if fault is not None:
            spoil(handler, fault)
            return True
        if parts.path == "/api/models":
            self._list(handler, parse_qs(parts.query))
            return True
        name, _, rest = parts.path.removeprefix("/api/models").removeprefix("/org/").partition("/")
        if name not in self.models:
            handler.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif rest.startswith("revision/"):
            listing = {"sha": sha(name), "siblings": [{"rfilename": file} for file in self.models[name]]}
            handler.answer(200, json.dumps(listing).encode())
        else:
            handler.serve(self.models[name].get(rest.removeprefix(f"resolve/{sha(name)}/")))
        return True

    def _list(self, handler: Handler, query: dict[str, list[str]]) -> None:
        assert query["author"] == ["org"]
        begin = int(query.get("cursor", ["0"])[0])
        names = list(self.models)[begin : begin + self.page]
        end = begin + self.page
        more = {"Link": f'<{self.url}/api/models?author=org&cursor={end}>; rel="next"'}
        entries = [{"id": f"org/{name}", "sha": sha(name)} for name in names]
        handler.answer(200, json.dumps(entries).encode(), more if end < len(self.models) else {})


def sha(name: str) -> str:
    return name.encode().hex().rjust(40, "0")


def spoil(handler: Handler, fault: str) -> None:
    """Answer with an error, with half a body, or not at all."""
    if fault == "busy":
        handler.answer(503, b"busy")
        return
    if fault == "cut":
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-65535/99999999")
        handler.send_header("Content-Length", "65536")
        handler.end_headers()
        handler.wfile.write(b"half")
    handler.close_connection = True


def drawn_faults(part: float, seed: int) -> Iterator[str | None]:
    draw = random.Random(seed)
    while True:
        yield draw.choice(["busy", "cut", "reset"]) if draw.random() < part else None


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """The files of some drawn models, one of them broken."""
    drawn_fleet(tmp_path / "made", 40, seed=51)
    folders = {path.parent.name: path.parent for path in sorted((tmp_path / "made").rglob("config.json"))}
    found = {name: {path.name: path.read_bytes() for path in folder.iterdir()} for name, folder in folders.items()}
    found["m7"]["config.json"] = b"{"
    return found


@contextmanager
def organisation(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[OrganisationHub]:
    from huggingface_hub import constants

    hub = OrganisationHub(models, page=15)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tiecheck.files.remote.http.BACKOFF", 0.001, raising=False)
    try:
        yield hub
    finally:
        hub.close()


def verdicts(table: Path) -> dict[str, tuple[object, ...]]:
    return {row["target"]: (row["status"], row["architecture"], tuple(row["codes"])) for row in rows_of(table)}


def alone(target: str) -> tuple[object, ...]:
    report = check_target(target, Config())
    return report.status, report.architecture, tuple(sorted({found.code for found in report.counted()}))


def test_an_organisation_of_the_hub(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "out.jsonl"
    with organisation(models, monkeypatch) as hub:
        hub.faults = drawn_faults(0.05, 52)
        found = run_fleet("hf://org", results=table)
        asked, pages = len(hub.requests), sum("author=" in path for path in hub.paths())
        run = found.summary.run
        assert (found.problem, run.listed, run.judged, run.failed) == (None, 40, 39, 1)
        assert hub.spoilt
        assert found.summary.requests == asked - pages  # each that was tried again is counted
        assert {row["mark"] for row in rows_of(table)} == set(map(sha, models))
        hub.faults = iter(())
        assert verdicts(table) == {f"hf://org/{name}": alone(f"hf://org/{name}") for name in models}
        assert {codes for *_, codes in verdicts(table).values()} >= {(), ("TIE102",)}
        before = len(hub.requests)
        again = run_fleet("hf://org", results=table, resume=True).summary.run
        assert (again.skipped, again.failed) == (39, 1)
        assert len(hub.requests) - before <= 3 + 4  # the list, and the broken one once more


def test_a_bucket_that_spoils_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_fleet = pytest.importorskip("s3_fleet")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    table = tmp_path / "out.jsonl"
    with s3_fleet.bucket(count := 30, 0.0, 0.1) as (address, counts):
        found = run_fleet(f"{address}/own", results=table)
        run = found.summary.run
        assert (found.problem, run.listed, run.judged + run.failed) == (None, count, count)
        assert counts()["faults"] > counts()["cut"] > 0
        assert run.failed == len(found.summary.errors) <= 1  # four tries of each request, of which one in ten fails
        judged = [row for row in rows_of(table) if row["status"] != "error"]
        assert {(row["status"], row["architecture"], *row["codes"]) for row in judged} == {
            (judged[0]["status"], "LlamaForCausalLM")
        }
        assert 1 <= counts()["requests"] - found.summary.requests <= 4  # each is counted, but for those of the list
        again = run_fleet(f"{address}/own", results=table, resume=True).summary.run
        assert again.skipped == count - run.failed
