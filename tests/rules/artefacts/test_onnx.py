"""TIE631 on graphs that torch exported: a folded transpose stores the tied matrix a second time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.errors import TargetError
from tiecheck.files.onnx import read_onnx
from tiecheck.records.artefacts import OnnxCopies, OnnxCopy
from tiecheck.stored.onnx_ties import find_onnx_copies

pytestmark = pytest.mark.filterwarnings("ignore")


class Tiny(nn.Module):
    def __init__(self, *, tied: bool, rows: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(rows, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, rows, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.middle(self.embedding(ids))))


def exported(where: Path, *, tied: bool = True, folded: bool = True, external: bool = False, rows: int = 32) -> Path:
    """Export a small model as torch does, its data within or beside the file."""
    path = where / "model.onnx"
    given = (torch.tensor([[1, 2]]),)
    torch.onnx.export(Tiny(tied=tied, rows=rows).eval(), given, path, dynamo=False, do_constant_folding=folded)
    if external:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def told(path: Path) -> list[tuple[str, str]]:
    report = tiecheck.check(path).targets[0]
    assert report.type == "onnx"
    assert not report.errors
    assert report.status == ("fail" if report.findings else "pass")
    return [(f.code, f.severity) for f in report.findings]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("rows", [32, 8])
def test_a_folded_transpose_is_told(rows: int, external: bool, tmp_path: Path) -> None:
    path = exported(tmp_path, external=external, rows=rows)
    assert told(path) == [("TIE631", "warning")]
    assert told(exported(tmp_path, external=external, rows=rows, folded=False)) == []
    assert told(exported(tmp_path, external=external, rows=rows, tied=False)) == []


def test_the_initialisers_are_those_of_the_library(tmp_path: Path) -> None:
    path = exported(tmp_path)
    ours = read_onnx(str(path)).checkpoint
    (shard,) = ours.shards
    theirs = {i.name: list(i.dims) for i in onnx.load(path).graph.initializer}
    assert {name: entry["shape"] for name, entry in shard.entries.items()} == theirs
    raw = path.read_bytes()
    for i in onnx.load(path).graph.initializer:
        start, end = shard.entries[i.name]["data_offsets"]
        assert raw[start:end] == i.raw_data


def test_data_that_is_stored_as_numbers_is_no_pass(tmp_path: Path) -> None:
    path = exported(tmp_path)
    model = onnx.load(path)
    for i in model.graph.initializer:
        i.float_data.extend(onnx.numpy_helper.to_array(i).ravel().tolist())
        i.ClearField("raw_data")
    onnx.save(model, path)
    report = tiecheck.check(path).targets[0]
    assert (report.status, len(report.skips)) == ("unknown", 1)


def test_external_data_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = exported(tmp_path / "in", external=True)
    path.write_bytes(path.read_bytes().replace(b"model.onnx.data", b"../../../../../"))
    report = tiecheck.check(path).targets[0]
    assert report.status in ("unknown", "error")


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_refused_in_a_sentence_or_read(seed: int, tmp_path: Path) -> None:
    path = exported(tmp_path)
    raw, draw = bytearray(path.read_bytes()), random.Random(seed)
    if draw.random() < 0.3:
        raw = raw[: draw.randrange(len(raw))]
    for _ in range(draw.randrange(1, 8)):
        raw[draw.randrange(max(len(raw), 1)) if raw else 0 :][:1] = bytes([draw.randrange(256)])
        if raw:
            raw[draw.randrange(len(raw))] = draw.randrange(256)
    path.write_bytes(raw)
    try:
        read_onnx(str(path))
    except TargetError as error:
        if str(path) not in str(error):
            raise


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3a" * 90, b"GGUF" * 9]
)
def test_what_is_no_onnx_file_is_told(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(raw)
    (error,) = tiecheck.check(tmp_path / "a.onnx").errors
    assert "no ONNX file" in error.message


def bomb(kind: str) -> bytes:
    """A file whose dimensions, fields or pairs of tables and matrices would take hours to multiply."""
    model = onnx.ModelProto()
    if kind == "dims":
        model.graph.initializer.add(name="w", data_type=1, raw_data=bytes(4)).dims.extend([2**63 - 1] * 100_000)
    elif kind == "fields":
        return b"\x3a\x80\xc2\xd7\x2f" + bytes([0x10, 1]) * 50_000_000
    for number in range(20_000 if kind == "pairs" else 0):
        name = f"w{number}"
        model.graph.initializer.add(name=name, data_type=1, dims=[2, 3], raw_data=number.to_bytes(24, "little"))
        model.graph.node.add(op_type="Gather", input=[name])
        model.graph.node.add(op_type="MatMul", input=["x", name])
    return model.SerializeToString()


@pytest.mark.parametrize(("kind", "status"), [("dims", "error"), ("fields", "error"), ("pairs", "pass")])
def test_what_would_take_hours_is_bounded(kind: str, status: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(bomb(kind))
    begin = time.process_time()
    assert tiecheck.check(tmp_path / "m.onnx").targets[0].status == status
    assert time.process_time() - begin < 10


def test_the_copy_is_the_table_transposed_and_a_tie_has_none(tmp_path: Path) -> None:
    (tmp_path / "folded").mkdir()
    found = find_onnx_copies(read_onnx(str(exported(tmp_path / "folded"))))
    (copy,) = found.found
    assert isinstance(copy, OnnxCopy)
    assert copy.matrix.shape == copy.table.shape[::-1] == (8, 32)
    assert copy.comparison.equal
    assert find_onnx_copies(read_onnx(str(exported(tmp_path, folded=False)))) == OnnxCopies((), ())
