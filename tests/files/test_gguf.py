"""The reader of GGUF headers against the gguf library: drawn files, their parts, and damaged ones."""

from __future__ import annotations

import random
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from tiecheck.errors import TargetError
from tiecheck.files.gguf import TYPES, read_gguf
from tiecheck.records.stored import read_entry

TYPE = gguf.GGMLQuantizationType


def write(path: Path, seed: int = 0, **keywords: int) -> None:
    """Write a drawn model: values of every kind, tensors of several types and ranks."""
    draw = random.Random(seed)
    writer = gguf.GGUFWriter(path, draw.choice(("llama", "gemma3", "x")), **keywords)
    writer.add_token_list([f"token {i}" * draw.randrange(4) for i in range(draw.randrange(50))])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_array("flags", [True, False])
    writer.add_string("template", "x" * draw.choice((3, 70_000)))
    if draw.random() < 0.3:
        writer.add_custom_alignment(draw.choice((8, 64, 1024)))
    for i in range(draw.randrange(1, 12)):
        kind = draw.choice((TYPE.F32, TYPE.F16, TYPE.Q8_0, TYPE.Q4_0))
        shape = [draw.randrange(1, 5) for _ in range(draw.randrange(3))] + [64]
        array = np.full(shape, draw.random(), np.float32)
        writer.add_tensor(f"blk.{i}.weight", gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_file_is_read_as_the_library_reads_it(seed: int, tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", seed)
    theirs = gguf.GGUFReader(tmp_path / "model.gguf")
    ours = read_gguf(str(tmp_path / "model.gguf"))
    assert ours.architecture == str(theirs.fields["general.architecture"].contents())
    (shard,) = ours.checkpoint.shards
    found = {}
    for name, entry in shard.entries.items():
        dtype, shape, start, end = read_entry(entry)
        found[name] = (entry["dtype"], shape, shard.data_start + start, end - start)
        assert dtype
    assert found == {
        t.name: (t.tensor_type.name, tuple(int(n) for n in t.shape[::-1]), int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    }


def test_the_types_are_those_of_the_library() -> None:
    ours = {tuple(int(word) for word in t.split(":") if word.isdigit()) for t in TYPES.split(" ")}
    theirs = {(int(t), *gguf.GGML_QUANT_SIZES[t]) for t in TYPE}
    assert theirs <= ours


def test_the_parts_of_a_split_model_are_read_as_one(tmp_path: Path) -> None:
    write(tmp_path / "big.gguf", 5, split_max_tensors=2)
    parts = sorted(tmp_path.glob("big-*.gguf"))
    assert len(parts) > 1
    whole = read_gguf(str(parts[1]))
    assert [shard.path for shard in whole.checkpoint.shards] == [part.name for part in parts]
    parts[-1].unlink()
    with pytest.raises(TargetError, match="is not there"):
        read_gguf(str(parts[0]))


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_refused_in_a_sentence_or_is_no_less_sound_for_the_library(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, seed % 12)
    raw = bytearray(path.read_bytes())
    draw = random.Random(seed)
    if draw.random() < 0.3:
        raw = raw[: draw.randrange(len(raw))]
    for _ in range(draw.randrange(1, 6)):
        raw[draw.randrange(min(len(raw), 3000))] = draw.randrange(256)
    path.write_bytes(raw)
    try:
        found = read_gguf(str(path))
    except TargetError as error:
        if str(path) not in str(error):
            raise
        return
    names = {t.name for t in gguf.GGUFReader(path).tensors} if raw[4:8] == b"\3\0\0\0" else set()
    assert not names or set(found.checkpoint.names()) == names


def test_a_sparse_file_takes_no_longer_than_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["x"] * 128_000)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor_info(name, (10_000_000_000, 1), np.dtype(np.float16), 20_000_000_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 40_000_000_100)
    begin = time.process_time()
    assert read_gguf(str(path)).checkpoint.tensor("output.weight") is not None
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "little-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "more than it can hold"),
        (b"GGUF" + (3).to_bytes(4, "little") + bytes(16), "names no architecture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"", "ends within its header"),
        (b"PK\3\4" + bytes(60), "does not begin"),
    ],
)
def test_what_is_no_gguf_file_is_told(raw: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(raw)
    with pytest.raises(TargetError, match=why):
        read_gguf(str(tmp_path / "a.gguf"))
