"""Models of a store: the same ones whether folders are walked, or all files come as one sorted list."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiecheck.errors import TargetError
from tiecheck.fleet import stores
from tiecheck.fleet.listed import Listed
from tiecheck.fleet.sources import list_models

NAMES = st.sampled_from(
    ["config.json", "model.safetensors", "adapter_config.json", "notes.txt", "m.nemo", "a", "b", "a-b", "z"]
)
PATHS = st.lists(st.sampled_from(["a", "b", "a-b", "z", "config.json"]), max_size=3).flatmap(
    lambda folders: NAMES.map(lambda name: "/".join([*folders, name]))
)


class Listing:
    """What a bucket lists."""

    address = "s3://b/m"

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def listed(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((path, {"size": 1, "ETag": path}) for path in self.paths)


def whole(paths: list[str]) -> list[str]:
    """Paths of a tree: none is a folder of another."""
    return [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]


@settings(max_examples=200, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=12, unique=True).map(whole))
def test_a_walk_a_listing_by_folders_and_a_flat_list_find_the_same_models(paths: list[str]) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    with tempfile.TemporaryDirectory() as root:
        for path in paths:
            memory.pipe_file(f"/m/{path}", b"x")
            file = Path(root, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
        walked = {model.target.removeprefix(root) for model in list_models([root])}
    flat = list(stores._bucket(Listing(sorted(paths))))
    assert len(flat) == len({model.target for model in flat})
    assert {model.target.removeprefix("s3://b/m") for model in flat} == walked
    for model in flat:
        folder = model.target.removeprefix("s3://b/m").lstrip("/")
        inside = {path.removeprefix(folder).lstrip("/") for path in paths if path.startswith(folder)}
        assert model.names == {
            name for name in inside if "/" not in name and (not folder or f"{folder}/{name}" in paths)
        }
    if walked:
        listed = {model.target.removeprefix("memory://m") for model in list_models(["memory://m"])}
        assert listed == walked
    memory.store.clear()


def test_a_store_that_lists_in_no_order_is_refused() -> None:
    with pytest.raises(TargetError, match="s3://b/m cannot be listed: the store does not list in order"):
        list(stores._bucket(Listing(["b/config.json", "a/config.json"])))


def test_a_list_is_a_stream_of_models_that_are_whole() -> None:
    def endless() -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(10_000_000):
            for name in ("config.json", "model.safetensors"):
                yield f"{number:08}/{name}", {"size": 1, "ETag": ""}

    listing = Listing([])
    listing.listed = endless
    first = next(stores._bucket(listing))
    names = frozenset(("config.json", "model.safetensors"))
    assert first == Listed("s3://b/m/00000000", first.mark, None, names)


def test_so_many_halves_are_models_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MANY", 3)
    found = stores._bucket(Listing([f"{number}/config.json" for number in range(9)]))
    assert sorted(model.target for model in found) == [f"s3://b/m/{number}" for number in range(9)]
