"""Time and memory of a large sparse GGUF file against safetensors: `python tests/benchmarks/bench_gguf.py [--gib N]`.

Writes both with the same names into a temporary directory, headers alone with as much room as their tensors take, and
runs the command on each and on nothing (`--version`), several times in turn. Prints the
medians; `--gib` and `--layers` choose the size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import tempfile
from pathlib import Path

from bench_headers import peak
from timing import process, seconds

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")


def names(layers: int) -> list[str]:
    """Names of a model's tensors, as llama.cpp has them."""
    return ["token_embd.weight", *(f"blk.{n}.{part}.weight" for n in range(layers) for part in PARTS)]


def write_gguf(path: Path, tensors: list[str], nbytes: int) -> None:
    """Write the header of a file of F16 tensors of one size, and leave a hole for them."""

    def text(word: str) -> bytes:
        return struct.pack("<Q", len(word)) + word.encode()

    rows = nbytes // 8192
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    words = [text(f"<token {n}>") for n in range(128_000)]
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(words)) + b"".join(words)
    for number, name in enumerate(tensors):
        head += text(name) + struct.pack("<IQQIQ", 2, 4096, rows, 1, number * rows * 8192)
    head += bytes(-len(head) % 32)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + len(tensors) * rows * 8192)


def write_safetensors(path: Path, tensors: list[str], nbytes: int) -> None:
    """Write the header of a safetensors file of the same names and sizes."""
    rows = nbytes // 8192
    size = rows * 8192
    entries = {
        name: {"dtype": "F16", "shape": [rows, 4096], "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(tensors)
    }
    head = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + len(tensors) * size)


def run(*arguments: str) -> float:
    """Wall seconds of one run."""
    return seconds(lambda: process([sys.executable, "-m", "tiecheck", *arguments]))


def main() -> None:
    """Write, run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=40)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    tensors = names(options.layers)
    nbytes = (options.gib << 30) // len(tensors)
    with tempfile.TemporaryDirectory() as folder:
        made = {"GGUF": Path(folder, "model.gguf"), "safetensors": Path(folder, "model.safetensors")}
        write_gguf(made["GGUF"], tensors, nbytes)
        write_safetensors(made["safetensors"], tensors, nbytes)
        cases = {"nothing (--version)": ("--version",), **{kind: (str(path),) for kind, path in made.items()}}
        seen: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.runs):
            for name, arguments in cases.items():
                seen[name].append(run(*arguments))
        most = {name: peak(list(arguments)) for name, arguments in cases.items()}
        size = sum(path.stat().st_size for path in made.values()) / len(made)
        print(f"{len(tensors)} tensors, {size / 2**30:.0f} GiB each, median of {options.runs}\n")
        for name, runs in seen.items():
            print(f"{name:22} {statistics.median(runs):.2f} s {most[name]:5.0f} MiB")


if __name__ == "__main__":
    main()
