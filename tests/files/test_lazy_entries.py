"""A large sharded checkpoint whose entries are parsed again on demand: the same facts as with all of them kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiecheck.files import checkpoint as checkpoint_module
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.safetensors import header
from tiecheck.files.safetensors.typed_entries import ReparsedEntries
from tiecheck.records.stored import Checkpoint

SHARDS, EACH = 4, 50
INDEX = "model.safetensors.index.json"


def write(root: Path) -> dict[str, str]:
    """Some shards with their index; names with spaces, braces and letters beyond ASCII among them."""
    weight_map = {}
    for shard in range(SHARDS):
        file = f"model-{shard}.safetensors"
        names = [f"layers.{i}.w{shard}" for i in range(EACH - 3)] + [f"ü {shard}", f"{{{shard}}}", f"a:b{shard}"]
        entries = {
            name: {"dtype": "BF16", "shape": [2, 4], "data_offsets": [16 * i, 16 * i + 16]}
            for i, name in enumerate(names)
        }
        header = {"__metadata__": {"format": "pt", names[0]: "x"}, **entries}
        text = json.dumps(header, ensure_ascii=False).encode()
        (root / file).write_bytes(len(text).to_bytes(8, "little") + text + bytes(16 * EACH))
        weight_map |= dict.fromkeys(names, file)
    (root / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def read(root: Path) -> Checkpoint:
    found = read_checkpoint(str(root))
    assert found is not None
    return found


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is large."""
    monkeypatch.setattr(header, "TYPED_FROM", 0)


@pytest.mark.usefixtures("typed")
class TestLate:
    def test_says_what_the_headers_say(self, tmp_path: Path) -> None:
        weight_map = write(tmp_path)
        found = read(tmp_path)
        assert found.agrees
        assert sorted(found.names()) == sorted(weight_map)
        for shard in found.shards:
            entries = shard.entries
            kept = header.read_shard(str(tmp_path / shard.path), shard.path).entries
            assert isinstance(entries, ReparsedEntries)
            assert len(entries) == len(kept) == EACH
            assert next(iter(entries)) == next(iter(kept))
            assert next(reversed(entries)) == list(kept)[-1]  # type: ignore[call-overload]  # it can be reversed
            assert list(entries) == list(kept)
            assert list(reversed(entries)) == list(kept)[::-1]  # type: ignore[call-overload]
        for name, file in weight_map.items():
            assert name in found
            tensor = found.tensor(name)
            assert tensor is not None
            assert (tensor.name, tensor.file, tensor.dtype, tensor.shape) == (name, file, "bfloat16", (2, 4))

    def test_holds_nothing_else(self, tmp_path: Path) -> None:
        write(tmp_path)
        found = read(tmp_path)
        for odd in ("dtype", "BF16", "__metadata__", "format", "x", "layers", 'a"b', "a\\b", "\x1b[31m", "\ud800", ""):
            assert odd not in found
            assert found.tensor(odd) is None
            assert all(odd not in shard.entries for shard in found.shards)
        assert 3 not in found.shards[0].entries

    @pytest.mark.parametrize("change", ["moved", "more in the index", "less in the index", "gone"])
    def test_entries_are_kept_where_the_index_says_otherwise(self, tmp_path: Path, change: str) -> None:
        weight_map = write(tmp_path)
        if change == "moved":
            weight_map["layers.3.w0"] = "model-2.safetensors"
        elif change == "more in the index":
            weight_map["other"] = "model-2.safetensors"
        elif change == "less in the index":
            del weight_map["layers.3.w0"]
        else:
            (tmp_path / "model-1.safetensors").unlink()
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        found = read(tmp_path)
        assert not found.agrees
        assert ("other" in found) is False
        assert "layers.3.w0" in found
        assert "layers.3.w1" in found  # of an absent shard by the index
        assert (found.tensor("layers.3.w1") is None) == (change == "gone")
        assert len(list(found.names())) == SHARDS * EACH


def test_a_large_index_of_files_that_are_there_or_not(tmp_path: Path, monkeypatch) -> None:
    weight_map = write(tmp_path)
    raw = (tmp_path / INDEX).read_bytes()
    wanted = checkpoint_module.parse_index(raw, "it")
    monkeypatch.setattr(header, "TYPED_FROM", 0)
    assert wanted[0] == weight_map
    for there in ((), sorted(set(weight_map.values())), ["model-0.safetensors"], ["config.json"]):
        assert checkpoint_module.parse_index(raw, "it", there) == wanted
