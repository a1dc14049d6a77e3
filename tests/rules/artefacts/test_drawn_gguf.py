"""Drawn GGUF files of the gguf library: types, parts, heads of every kind and damage, held to what it reads."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

import tiecheck
from tiecheck.peers.loaders.llama_cpp import head_use
from tiecheck.records.report import TargetReport

TYPE = gguf.GGMLQuantizationType
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")
ARCHITECTURES = sorted(set(gguf.MODEL_ARCH_NAMES.values()))
HEAD, EMBEDDING = "output.weight", "token_embd.weight"
SEED = 20261130


def add(writer: gguf.GGUFWriter, name: str, rows: np.ndarray, kind: str) -> None:
    """Add a matrix in some type."""
    if kind == "F32":
        writer.add_tensor(name, rows)
    else:
        writer.add_tensor(name, quantize(rows, TYPE[kind]), raw_dtype=TYPE[kind])


def drawn(folder: Path, draw: random.Random) -> tuple[Path, str]:
    """Write a drawn file, or its parts; the first file, and the architecture."""
    architecture = draw.choice(ARCHITECTURES)
    parts = draw.choice((0, 0, 0, 1, 2))
    writer = gguf.GGUFWriter(folder / "m.gguf", architecture, split_max_tensors=parts)
    rows = np.random.default_rng(draw.randrange(1 << 30)).standard_normal((draw.choice((3, 32)), 64)).astype("f4")
    if draw.random() < 0.1:
        rows[:] = 0
    kind = draw.choice(TYPES)
    tensors = [(EMBEDDING, rows, kind)]
    head = draw.choice(("absent", "absent", "equal", "equal", "moved", "row", "type", "wider"))
    other = rows.copy()
    if head == "row":
        other[draw.randrange(len(rows))] += 1
    if head != "absent":
        other = other + (head == "moved")
        other = np.concatenate([other, other[:1]]) if head == "wider" else other
        tensors.append((HEAD, other, draw.choice(TYPES) if head == "type" else kind))
    others = ("rope_freqs", "token_embd_norm", "output_norm", "token_types")
    tensors += [(f"{n}.weight", np.ones((1, 64), "f4"), "F32") for n in others if draw.random() < 0.4]
    draw.shuffle(tensors)
    for name, array, word in tensors:
        add(writer, name, array, word)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(folder.glob("*.gguf")), architecture


def held(folder: Path) -> dict[str, tuple[object, ...]]:
    """What the library reads of embedding and head: type, shape, bytes."""
    tensors = [t for path in folder.glob("*.gguf") for t in gguf.GGUFReader(path).tensors]
    return {t.name: (t.tensor_type, tuple(t.shape), t.data.tobytes()) for t in tensors if t.name in (HEAD, EMBEDDING)}


def expected(tensors: dict[str, tuple[object, ...]], use: str) -> tuple[str, set[tuple[str, str]]]:
    """How the two are stored, and what is found, by what the library reads and the loader does with the head."""
    if HEAD not in tensors:
        return "absent", {("TIE621", "error")} if use == "required" else set()
    one, other = tensors[HEAD], tensors[EMBEDDING]
    stored = "unknown" if one[:2] != other[:2] else "copy" if one == other else "separate"
    if use in ("none", "embedding"):
        return stored, {("TIE622", "error")}
    constant = len(set(one[2])) == 1  # type: ignore[arg-type]  # bytes
    return stored, {("TIE622", "info")} if stored == "copy" and not constant and use != "unknown" else set()


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(n, marks=pytest.mark.slow) for n in range(40, 1200))])
def test_a_drawn_file_is_told_by_what_the_library_reads(seed: int, tmp_path: Path) -> None:
    path, architecture = drawn(tmp_path, random.Random(SEED + seed))
    report, use = tiecheck.check(path).targets[0], head_use(architecture).partition(":")[0]
    assert not report.errors, report.errors
    stored, found = expected(held(tmp_path), use)
    assert {(f.code, f.severity) for f in report.findings} == found, (architecture, use)
    if use not in ("none", "unknown") or stored != "absent":
        assert [tie.stored for tie in report.ties] == [stored]
    assert (report.status == "unknown") is (use == "unknown")


def damaged(path: Path, draw: random.Random) -> None:
    """Move the offset or a length of one tensor, or cut the file."""
    raw = bytearray(path.read_bytes())
    at = raw.find(EMBEDDING.encode()) if draw.random() < 0.7 else raw.find(b"output_norm.weight")
    if at < 0 or draw.random() < 0.3:
        path.write_bytes(raw[: len(raw) - draw.choice((1, 32, 100))])
        return
    name = EMBEDDING if raw[at:].startswith(EMBEDDING.encode()) else "output_norm.weight"
    field = at + len(name) + draw.choice((4, 12, 20, 24))  # two lengths, the type, the offset
    size = 4 if field == at + len(name) + 20 else 8
    value = draw.choice((0, 1, 7, 31, 33, 64, 1 << 20, 1 << 31, (1 << 32) - 1))
    raw[field : field + size] = struct.pack("<I" if size == 4 else "<Q", value)
    path.write_bytes(raw)


def read_or_refused(path: Path, report: TargetReport) -> bool:
    """Tell whether a file that is not refused is read by the library with the same pair."""
    if report.errors:
        return all(str(path.parent) in error.message for error in report.errors)
    theirs = held(path.parent)
    return all(name in theirs for tie in report.ties for name in tie.stored_names)


@pytest.mark.parametrize("seed", [*range(30), *(pytest.param(n, marks=pytest.mark.slow) for n in range(30, 600))])
def test_a_file_with_moved_offsets_is_refused_or_sound(seed: int, tmp_path: Path) -> None:
    draw = random.Random(SEED + 10_000 + seed)
    path, _ = drawn(tmp_path, draw)
    damaged(path, draw)
    assert read_or_refused(path, tiecheck.check(path).targets[0])
