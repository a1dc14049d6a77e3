"""What `--for` names has to read the kind of an artefact, or one of what it names: else its word is not known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import tiecheck
from tiecheck.peers.loaders.registry import MODULES, loaders_of

BASE = Path(__file__).parents[2] / "fixtures" / "models" / "llama-healthy-tied"
SEED = 20261201

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def gguf_file(where: Path) -> Path:
    """Write a Llama without a head of its own."""
    writer = gguf.GGUFWriter(where / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.ones((4, 64), "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return where / "m.gguf"


def onnx_file(where: Path) -> Path:
    """Write a table that is looked up in, and no copy of it."""
    value = onnx.helper.make_tensor_value_info
    ends = [value("ids", onnx.TensorProto.INT64, [1, 2])], [value("out", onnx.TensorProto.FLOAT, [1, 2, 8])]
    table = onnx.numpy_helper.from_array(np.arange(32, dtype="f4").reshape(4, 8), "table")
    nodes = [onnx.helper.make_node("Gather", ["table", "ids"], ["out"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends, [table])), where / "m.onnx")
    return where / "m.onnx"


def adapter(where: Path) -> Path:
    """Save an adapter of layers that no tie has a part in."""
    model = get_peft_model(LlamaForCausalLM.from_pretrained(BASE), LoraConfig(r=1, target_modules=["q_proj"]))
    model.save_pretrained(where)
    return where


@pytest.mark.parametrize(
    ("make", "reader"), [(gguf_file, "llama.cpp"), (onnx_file, "onnxruntime"), (adapter, "transformers")]
)
def test_one_of_the_named_loaders_reads_the_kind(make: Callable[[Path], Path], reader: str, tmp_path: Path) -> None:
    """By drawn sets of loaders and versions: with the one that reads the kind it is judged, without it is unknown."""
    path, draw = make(tmp_path), random.Random(SEED)
    given = {"base": str(BASE)} if make is adapter else {}
    (report,) = tiecheck.check(path, **given).targets
    assert report.status == "pass", report.reason
    titles = [*MODULES, *(f"{one.name}=={one.versions}" for one in loaders_of())]
    drawn = [[name] for name in MODULES] + [draw.sample(titles, draw.randint(1, 4)) for _ in range(12)]
    for chosen in drawn:
        names = sorted({title.partition("==")[0] for title in chosen})
        (report,) = tiecheck.check(path, judge_for=chosen, **given).targets
        assert (report.status == "pass") is (reader in names), (chosen, report.reason)
        if report.status != "pass":
            assert report.status == "unknown"
            assert all(name in (report.reason or "") for name in (*names, "was not looked at")), report.reason


def packed_for_mlx(where: Path, bits: int, group: int) -> Path:
    """Save a Llama that is not tied as mlx-lm packs it: words, scales and biases for each matrix."""
    made = LlamaConfig(hidden_size=64, vocab_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=64)
    made.tie_word_embeddings = False
    model, packed = LlamaForCausalLM(made), {}
    for name, value in model.state_dict().items():
        if value.ndim != 2:
            packed[name] = value.numpy()
            continue
        module, (rows, width) = name.removesuffix(".weight"), value.shape
        packed[name] = np.zeros((rows, width * bits // 32), np.uint32)
        packed |= {f"{module}.{part}": np.zeros((rows, width // group), "f2") for part in ("scales", "biases")}
    made.architectures = ["LlamaForCausalLM"]
    form = {"group_size": group, "bits": bits}
    (where / "config.json").write_text(json.dumps(made.to_dict() | {"quantization": form, "quantization_config": form}))
    save_file(packed, where / "model.safetensors", {"format": "mlx"})
    return where


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32), (2, 64)])
def test_what_mlx_lm_packs_is_judged_by_mlx_lm(bits: int, group: int, tmp_path: Path) -> None:
    """With its word kept in both keys, or in MLX's alone: transformers raises for both, and no pass asks for it."""
    path = packed_for_mlx(tmp_path, bits, group)
    for told in (("quantization", "quantization_config"), ("quantization",)):
        config = json.loads((path / "config.json").read_text())
        kept = {key: value for key, value in config.items() if not key.startswith("quantization") or key in told}
        (path / "config.json").write_text(json.dumps(kept))
        with pytest.raises((ValueError, RuntimeError), match=r"quant_method|ignore_mismatched_sizes"):
            LlamaForCausalLM.from_pretrained(path)
        (report,) = tiecheck.check(path).targets
        assert report.status == "pass", report.reason
        (named,) = tiecheck.check(path, judge_for=["transformers"]).targets
        assert named.status == "unknown"
    lacking = {name: value for name, value in load_file(path / "model.safetensors").items() if name != "lm_head.scales"}
    save_file(lacking, path / "model.safetensors", {"format": "mlx"})
    (report,) = tiecheck.check(path).targets
    assert report.status == "unknown"
    assert "crash in mlx-lm" in (report.reason or "")
    assert "of which a part is not stored" in (report.reason or "")
