"""A model of the hub in the local cache, and what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiecheck.files.remote.hub import HubAddress, hub_address, snapshot_of

COMMIT = "a" * 40


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, HubAddress]:
    repo = tmp_path / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    address = hub_address("hf://org/name")
    assert address is not None
    return folder, address


def test_a_branch_is_followed_to_its_commit(cached: tuple[Path, HubAddress], tmp_path: Path) -> None:
    folder, address = cached
    (folder / "model.safetensors").write_bytes(b"")
    for revision in ("main", COMMIT):
        found = snapshot_of(str(tmp_path), address, revision, "", None)
        assert found == (str(folder), "")


def test_what_is_not_there_is_told(cached: tuple[Path, HubAddress], tmp_path: Path) -> None:
    folder, address = cached
    other = snapshot_of(str(tmp_path), address, "v2", "", None)
    assert other.lacks.startswith("revision v2 is not in the hub's cache")
    lacking = snapshot_of(str(tmp_path), address, "main", "", ["config.json", "model.safetensors"])
    assert (lacking.path, lacking.lacks) == (str(folder), "the hub's cache lacks model.safetensors")
