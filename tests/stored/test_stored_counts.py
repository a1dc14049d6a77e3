"""Parameter counts of checkpoints, by headers: every fixture against its tensors, and what cannot be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.records.counts import Counts, Tally
from tiecheck.records.stored import Checkpoint, Shard, StorageSlot
from tiecheck.records.words import Unknown
from tiecheck.stored.counts import count_stored

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "models").iterdir())
HEAD = 96 * 16


def counted(where: Path, **options) -> Counts:
    (target,) = tiecheck.inspect(where, **options).targets
    assert target.counts is not None
    return target.counts


@pytest.mark.parametrize("where", [p for p in FIXTURES if list(p.glob("*.safetensors"))], ids=lambda p: p.name)
def test_a_fixture_holds_what_its_tensors_come_to(where: Path) -> None:
    tensors = {}
    for file in where.glob("*.safetensors"):
        tensors |= load_file(file)
    counts = counted(where)
    whole = Tally(sum(t.numel() for t in tensors.values()), sum(t.nbytes for t in tensors.values()), None)
    assert counts.layer == "stored"
    assert counts.unique == counts.by_name == whole
    assert (counts.objects, counts.buffers) == (None, None)


@pytest.mark.parametrize(
    ("case", "duplicates"),
    [
        ("llama-diverged-head", HEAD),
        ("llama-redundant-copy", HEAD),
        ("llama-healthy-tied", 0),
        ("llama-untied", 0),
        ("llama-flattened-tie", 0),
        ("gpt2-healthy-sharded", 0),
        ("t5-false-flag", 0),
    ],
)
def test_expected_is_without_the_duplicates_of_declared_groups(models: Path, case: str, duplicates: int) -> None:
    counts = counted(models / case)
    assert counts.unique.elements - counts.expected.elements == duplicates
    assert counts.unique.nbytes - counts.expected.nbytes == 4 * duplicates
    assert counted(models / case, values="never").expected == counts.expected, "no byte is needed for it"


def test_stored_and_live_agree_where_a_model_is_saved_as_it_is(models: Path) -> None:
    for case in ("llama-healthy-tied", "t5-healthy-tied", "bart-healthy-tied", "gpt2-healthy-sharded"):
        stored, live = counted(models / case), counted(models / case, live=True)
        assert live.layer == "live"
        assert stored.unique.elements - live.unique.elements in (0, live.buffers.elements)


def test_a_pickle_counts_shared_memory_once(models: Path) -> None:
    counts = counted(models / "llama-pickle-tied")
    assert counts.by_name.elements - counts.unique.elements == HEAD
    assert counts.expected == counts.unique


def test_a_pickle_of_overlapping_views(tmp_path: Path) -> None:
    flat = torch.zeros(50)
    tensors = {
        "a": flat[:30],
        "b": flat[20:],
        "c": torch.zeros(3, 3).t(),
        "e": torch.zeros(0),
        "i": torch.zeros(2).int(),
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    counts = counted(tmp_path)
    assert counts.unique == Tally(61, 244, None)
    assert counts.by_name == Tally(71, 284, None)
    assert counts.reasons[0].startswith("1 tensor holds integers")


def test_a_pickle_of_views_of_unlike_types_is_unknown() -> None:
    """torch 2.13 no longer saves such a thing, older files may hold it."""
    entries = {
        "a": {"dtype": "float32", "shape": [8], "data_offsets": (0, 32)},
        "b": {"dtype": "int16", "shape": [16], "data_offsets": (0, 32)},
    }
    slots = {name: StorageSlot(0, 0, (1,)) for name in entries}
    checkpoint = Checkpoint("pickle", ".", (Shard("model.bin", 0, entries),), None, {}, (), slots)
    counts = count_stored(checkpoint, ())
    assert counts.unique == Tally(None, None, None)
    assert counts.by_name == Tally(24, 64, None)
    assert any("cannot be told" in reason for reason in counts.reasons)


def test_packed_tensors_are_counted_as_stored_and_it_is_said(make_model) -> None:
    where = make_model({"a.qweight": ("I32", [4, 2], bytes(32)), "a.scales": ("F16", [2], bytes(4))})
    counts = counted(where)
    assert counts.unique == Tally(10, 36, None)
    assert counts.reasons[0] == "1 tensor holds integers, counted as stored, though one may pack several weights"


def test_a_shard_that_is_not_here_leaves_all_unknown(models: Path, tmp_path: Path) -> None:
    for file in (models / "gpt2-healthy-sharded").iterdir():
        if not file.name.startswith("model-00002"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    counts = counted(tmp_path)
    assert counts.unique == counts.expected == Tally(None, None, None)
    assert "model-00002" in counts.reasons[0]


def test_a_name_in_two_shards_counts_once_as_the_index_has_it(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(4)}, tmp_path / "1.safetensors")
    save_file({"a": torch.zeros(3)}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = read_checkpoint(str(tmp_path))
    assert count_stored(checkpoint, ()).unique == Tally(7, 28, None)


def test_where_the_groups_are_unknown_so_is_what_is_expected(models: Path) -> None:
    checkpoint = read_checkpoint(str(models / "llama-untied"))
    counts = count_stored(checkpoint, Unknown("nobody knows the class"))
    assert counts.expected == Tally(None, None, None)
    assert counts.reasons == ("what is expected cannot be told: nobody knows the class",)


def test_the_json_has_what_the_record_has(tiecheck_cli, models: Path) -> None:
    report = json.loads(tiecheck_cli("inspect", str(models / "llama-redundant-copy"), "-f", "json").stdout)
    counts = report["targets"][0]["counts"]
    assert counts["layer"] == "stored"
    assert counts["objects"] is None
    assert counts["unique"]["elements"] - counts["expected"]["elements"] == HEAD
