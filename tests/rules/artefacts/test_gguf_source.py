"""TIE623 (`--from`): files that the gguf library wrote of real checkpoints, over its types, with drawn faults.

What a file holds is told by transformers, which loads it, and by what was done to it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.files.gguf import read_gguf
from tiecheck.records.artefacts import Conversion
from tiecheck.stored.gguf_ties import compare_conversion

pytestmark = pytest.mark.filterwarnings("ignore")

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "Q6_K")
WIDTH, ROWS = 256, 48
SIZES = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def model(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=ROWS, num_key_value_heads=2, tie_word_embeddings=tied))


def q6_k(rows: np.ndarray) -> np.ndarray:
    """Quantise as Q6_K does, each sixteen elements by their largest: ql, qh, scales, d of 256 elements."""
    blocks = rows.reshape(-1, 16, 16)
    d = np.abs(blocks).max(axis=(1, 2)) / 32 / 127 + 1e-12
    d = d.astype(np.float16)
    scales = np.clip(np.rint(np.abs(blocks).max(axis=2) / 31 / d[:, None].astype(np.float32)), 1, 127)
    step = (d[:, None].astype(np.float32) * scales)[:, :, None]
    q = (np.clip(np.rint(blocks / step), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # 128 in four quarters
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, :2] | low[:, :, 2:] << 4], axis=2).reshape(len(q), 128)
    qh = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(len(q), 64)
    parts = (ql, qh, scales.astype(np.int8).view(np.uint8), d.view(np.uint8).reshape(-1, 2))
    return np.concatenate(parts, axis=1).reshape(len(rows), -1)


def convert(path: Path, dtype: str, head: np.ndarray | None, embedding: np.ndarray, like: LlamaForCausalLM) -> Path:
    """Write a file as llama.cpp's converter does: its names, one type for the two matrices."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (("block_count", 1), ("context_length", 64), ("embedding_length", WIDTH), ("head_count", 2),
                       ("feed_forward_length", 64), ("head_count_kv", 2), ("layer_norm_rms_eps", 1e-6),
                       ("vocab_size", ROWS), ("rope_dimension_count", WIDTH // 2)):  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in like.state_dict().items():
        if "embed_tokens" not in name and "lm_head" not in name:
            writer.add_tensor(names.get_name(name.removesuffix(".weight")) + ".weight", tensor.numpy())
    kind = gguf.GGMLQuantizationType[dtype]
    for name, rows in (("token_embd.weight", embedding), ("output.weight", head)):
        if rows is not None:
            raw = rows if dtype == "F32" else q6_k(rows) if dtype == "Q6_K" else quantize(rows, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def told(path: Path, source: Path) -> list[str]:
    report = tiecheck.check(path, converted_from=str(source))
    assert not report.errors, report.errors
    return [f.names[0] for f in report.findings if f.code == "TIE623" and f.severity == "error"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    found = {}
    for tied in (True, False):
        found[tied] = tmp_path_factory.mktemp("source") / str(tied)
        model(tied=tied).save_pretrained(found[tied])
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_conversion_is_told_by_what_was_done_to_it(
    tied: bool, dtype: str, sources: dict[bool, Path], tmp_path: Path
) -> None:
    made = model(tied=tied)
    e, h = (m.weight.detach().numpy() for m in (made.model.embed_tokens, made.lm_head))
    draw = random.Random(f"{dtype} {tied}")
    row = draw.randrange(ROWS)
    moved = e.copy()
    moved[row] = np.random.default_rng(row).standard_normal(WIDTH) * e.std()
    for head, embedding, expected in (
        (None if tied else h, e, []),
        (h, e * np.float32(3), []),  # a factor over all of it
        (None, e, [] if tied else ["output.weight"]),
        (None if tied else h, moved, ["token_embd.weight"]),
        (moved, e, ["output.weight"]),
        (e, e, [] if tied else ["output.weight"]),
    ):
        path = convert(tmp_path / "a.gguf", dtype, head, embedding, made)
        assert told(path, sources[tied]) == expected
        (finding,) = [f for f in tiecheck.check(path, converted_from=str(sources[tied])).findings
                      if f.code == "TIE623" and f.severity == "error"] or [None]  # fmt: skip
        if expected and embedding is moved:
            assert f"1 of {ROWS} rows, the first of them {row}" in finding.message
        path.unlink()


def test_q6_k_of_this_test_is_the_librarys() -> None:
    rows = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    back = dequantize(q6_k(rows), gguf.GGMLQuantizationType.Q6_K)
    assert np.abs(back - rows).max() < np.abs(rows).max() / 30


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_transformers_loads_the_head_that_is_told(
    kept: bool, tied: bool, dtype: str, sources: dict[bool, Path], tmp_path: Path
) -> None:
    made = model(tied=tied)
    e, h = (m.weight.detach().numpy() for m in (made.model.embed_tokens, made.lm_head))
    path = convert(tmp_path / "a.gguf", dtype, h if kept else None, e, made)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    near = torch.allclose(loaded.lm_head.weight, made.lm_head.weight, atol=3e-4)
    assert near is not bool(told(path, sources[tied]))


def test_a_head_in_another_type_is_a_note_for_a_tied_source(sources: dict[bool, Path], tmp_path: Path) -> None:
    made = model(tied=True)
    e = made.lm_head.weight.detach().numpy()
    path = convert(tmp_path / "a.gguf", "F16", None, e, made)
    raw = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.array(raw.get_tensor(len(raw.tensors) - 1).data))
    writer.add_tensor("output.weight", q6_k(e), raw_dtype=gguf.GGMLQuantizationType.Q6_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = tiecheck.check(tmp_path / "b.gguf", converted_from=str(sources[True]))
    assert [(f.code, f.severity) for f in report.findings] == [("TIE623", "info")]


def test_a_fine_tune_is_told_from_its_base_in_plain_types(sources: dict[bool, Path], tmp_path: Path) -> None:
    made = model(tied=True)
    e = made.lm_head.weight.detach().numpy()
    tuned = e + np.random.default_rng(0).standard_normal(e.shape).astype(np.float32) * e.std() * 0.05
    assert told(convert(tmp_path / "a.gguf", "BF16", None, tuned, made), sources[True]) == ["token_embd.weight"]


def test_a_source_that_is_not_sound_is_judged_first(sources: dict[bool, Path], tmp_path: Path) -> None:
    made = model(tied=False)
    e, h = (m.weight.detach().numpy() for m in (made.model.embed_tokens, made.lm_head))
    made.config.tie_word_embeddings = True
    (tmp_path / "base").mkdir()
    made.config.architectures = ["LlamaForCausalLM"]
    made.config.save_pretrained(tmp_path / "base")
    (tmp_path / "base/model.safetensors").write_bytes((sources[False] / "model.safetensors").read_bytes())
    path = convert(tmp_path / "a.gguf", "F16", h, e, made)
    report = tiecheck.check(path, converted_from=str(tmp_path / "base")).targets[0]
    assert (report.status, report.findings) == ("unknown", ())
    assert "judge it first" in (report.reason or "")


def test_what_cannot_be_compared_is_a_sentence(
    sources: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(tied=True)
    path = convert(tmp_path / "a.gguf", "Q8_0", None, made.lm_head.weight.detach().numpy(), made)
    for target, source, said in (
        (path, tmp_path / "nowhere", "nowhere"),
        (path, path, "no model directory"),
        (sources[True], sources[True], "--from is for GGUF files"),
    ):
        out = CliRunner().invoke(cli, [str(target), "--from", str(source)])
        assert (out.exit_code, said in " ".join(out.output.split())) == (2, True)
    assert tiecheck.check(path, converted_from=str(sources[True]), values="never").targets[0].status == "unknown"
    held = read_gguf(str(path))
    assert isinstance(compare_conversion(held, None, None), Conversion) is False
    monkeypatch.setitem(sys.modules, "gguf", None)
    out = CliRunner().invoke(cli, [str(path), "--from", str(sources[True])])
    assert out.exit_code == 2
    assert "pip install 'tiecheck[gguf]'" in " ".join(out.output.split())
