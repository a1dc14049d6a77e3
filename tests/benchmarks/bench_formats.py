"""What people bring, by its headers: CPU and memory of a check against plain safetensors of the same names.

`python tests/benchmarks/bench_formats.py [--layers N] [--runs N]`. Each is a directory with a large model's names and
a hole for its tensors; beside it stands one with the same entries as plain tensors under a plain config. Both are
checked in turn. ONNX needs the library to be written.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_gguf import names as gguf_names
from bench_gguf import write_gguf
from bench_headers import peak
from timing import process, ratio

ALONE = ("--no-cache", "--isolated")

LINEAR = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SHAPES = {"U32": 4, "I32": 4, "I64": 8, "F16": 2, "BF16": 2}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
EMBEDDING = "model.embed_tokens.weight"

Entries = dict[str, str]
"""Names with their dtypes."""


def modules(layers: int) -> list[str]:
    return [f"model.layers.{n}.{part}" for n in range(layers) for part in LINEAR]


def packed(layers: int, **parts: str) -> Entries:
    """Names of linear layers of which each is stored in parts, beside a plain embedding."""
    return {EMBEDDING: "BF16", **{f"{one}.{part}": dtype for one in modules(layers) for part, dtype in parts.items()}}


def write_header(path: Path, entries: Entries, edge: int = 64) -> None:
    """Write a safetensors header, and leave a hole for its tensors."""
    head, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype in entries.items():
        size = edge * edge * SHAPES[dtype]
        head[name] = {"dtype": dtype, "shape": [edge, edge], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def directory(
    where: Path, entries: Entries, file: str = "model.safetensors", config: str = "config.json", **more: Any
) -> None:
    sizes = {
        "hidden_size": 64,
        "vocab_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    (where / config).write_text(json.dumps({**CONFIG, **sizes, **more}))
    write_header(where / file, entries)


def onnx_file(where: Path, entries: Entries) -> None:
    """Write a graph whose initialisers lie in a file beside it."""
    from onnx import TensorProto, helper, save

    made = []
    for name in entries:
        tensor = TensorProto(
            name=name, data_type=TensorProto.FLOAT16, dims=[64, 64], data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "model.onnx.data"), ("offset", str(8192 * len(made))), ("length", "8192")):
            tensor.external_data.add(key=key, value=value)
        made.append(tensor)
    nodes = [helper.make_node("MatMul", [f"x{i}", name], [f"x{i + 1}"]) for i, name in enumerate(entries)]
    ends = [helper.make_tensor_value_info(x, TensorProto.FLOAT16, [1, 64]) for x in ("x0", f"x{len(nodes)}")]
    save(helper.make_model(helper.make_graph(nodes, "model", ends[:1], ends[1:], made)), str(where / "model.onnx"))
    with (where / "model.onnx.data").open("wb") as file:
        file.truncate(8192 * len(made))


def cases(layers: int) -> dict[str, tuple[Entries, Callable[[Path, Entries], str]]]:
    """Return by format the names and what writes it into a directory and returns the target."""

    def checkpoint(**more: Any) -> Callable[[Path, Entries], str]:
        return lambda where, entries: directory(where, entries, **more) or str(where)

    def adapter(where: Path, entries: Entries) -> str:
        """Write an adapter, and its base beside it."""
        (where / "base").mkdir()
        directory(where / "base", {name: dtype for name, dtype in entries.items() if "lora" not in name})
        targets = [part.rpartition(".")[2] for part in LINEAR]
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": targets}
        config["base_model_name_or_path"] = "./base"
        (where / "adapter_config.json").write_text(json.dumps(config))
        write_header(where / "adapter_model.safetensors", {name: d for name, d in entries.items() if "lora" in name})
        return str(where)

    def gguf(where: Path, entries: Entries) -> str:
        write_gguf(where / "model.gguf", list(entries), 8192)
        return str(where / "model.gguf")

    def onnx(where: Path, entries: Entries) -> str:
        onnx_file(where, entries)
        return str(where / "model.onnx")

    def quantised(method: str, **parts: str) -> tuple[Entries, Callable[[Path, Entries], str]]:
        form = {"quant_method": method, "bits": 4, "group_size": 128, "format": "pack-quantized"}
        return packed(layers, **parts), checkpoint(quantization_config=form)

    mlx = {"weight": "U32", "scales": "BF16", "biases": "BF16"}
    mlx_names = {f"{EMBEDDING[:-7]}.{part}": dtype for part, dtype in mlx.items()} | packed(layers, **mlx)
    plain = packed(layers, weight="BF16")
    lora = {f"base_model.model.{one}.lora_{side}.weight": "BF16" for one in modules(layers) for side in "AB"}
    vendor = [
        "tok_embeddings.weight",
        *(f"layers.{n}.attention.w{part}.weight" for n in range(layers) for part in "qkvo"),
    ]
    draft = {"fc.weight": "BF16", "lm_head.weight": "BF16", "d2t": "I64"}
    draft |= {name.replace(".layers.", ".midlayer."): dtype for name, dtype in plain.items()}
    eagle = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 64, "tie_word_embeddings": False}
    consolidated = {"file": "consolidated.safetensors", "config": "params.json", "tied_embeddings": True}
    return {
        "GPTQ": quantised("gptq", qweight="I32", qzeros="I32", scales="F16", g_idx="I32"),
        "AWQ": quantised("awq", qweight="I32", qzeros="I32", scales="F16"),
        "compressed-tensors": quantised(
            "compressed-tensors", weight_packed="I32", weight_scale="BF16", weight_shape="I64"
        ),
        "MLX": (mlx_names, checkpoint(quantization={"bits": 4, "group_size": 64})),
        "adapter and base": (plain | lora, adapter),
        "draft (EAGLE-3)": (draft, checkpoint(**eagle)),
        "consolidated": (dict.fromkeys(vendor, "BF16"), checkpoint(**consolidated)),
        "GGUF": (dict.fromkeys(gguf_names(layers), "F16"), gguf),
        "ONNX": (packed(layers, weight="F16"), onnx),
    }


def run(target: str) -> float:
    """CPU seconds of one check."""
    return process([sys.executable, "-m", "tiecheck", *ALONE, target])


def main() -> None:
    """Write, run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(f"{'':20} {'tensors':>7}  {'CPU of it':>9} {'plain':>8} {'ratio':>6}  {'peak':>7} {'plain':>7}")
    for name, (entries, write) in cases(options.layers).items():
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            target = write(Path(one), entries)
            directory(Path(two), dict.fromkeys(entries, "BF16"))
            mine, plain, times = ratio(lambda: run(target), lambda: run(two), options.runs)  # noqa: B023  # called at once
            most = [peak([*ALONE, one]) for one in (target, two)]
        cpu = f"{mine:7.3f} s {plain:6.3f} s {times:6.2f}"
        print(f"{name:20} {len(entries):7,}  {cpu}  {most[0]:3.0f} MiB {most[1]:3.0f} MiB")


if __name__ == "__main__":
    main()
