"""Headers: large directories judged by their headers, against msgspec's typed parse of the same bytes, and json's.

`python tests/benchmarks/bench_headers.py`; needs some 300 MB of headers on disk, the data is a hole in the files.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from timing import process, ratio, report, seconds

from tiecheck.collect.safetensors_entry import HEADER, Index


def make(root: Path, shards: int = 163, tensors: int = 92_000) -> list[Path]:
    """A mixture-of-experts checkpoint by its headers: config, index, sparse shards."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    (root / "config.json").write_text(json.dumps(config))
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    names += [
        f"model.layers.{i // 1500}.mlp.experts.{i // 3 % 500}.{'gud'[i % 3]}_proj.weight" for i in range(tensors - 2)
    ]
    weight_map: dict[str, str] = {}
    paths = []
    for shard in range(shards):
        mine = names[shard::shards]
        path = root / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header = {
            name: {"dtype": "BF16", "shape": [64, 32], "data_offsets": [4096 * i, 4096 * (i + 1)]}
            for i, name in enumerate(mine)
        }
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 4096 * len(mine))
        weight_map |= dict.fromkeys(mine, path.name)
        paths.append(path)
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return paths


def header_of(path: Path) -> bytes:
    """The JSON of one header."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def peak(command: list[str]) -> float:
    """MiB that a process takes at most, by its own count."""
    program = (
        "import resource, runpy, sys; sys.argv = ['tiecheck', *sys.argv[1:]]\n"
        "try: runpy.run_module('tiecheck', run_name='__main__')\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    return int(done.stderr.split()[-1]) / 1024


def large(shards: int, tensors: int, goal: float, runs: int) -> None:
    """A directory of many tensors."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        headers = [header_of(path) for path in make(root, shards, tensors)]
        index = (root / "model.safetensors.index.json").read_bytes()

        def typed() -> float:
            return seconds(lambda: [HEADER.decode(raw) for raw in headers])

        def both() -> float:
            return typed() + seconds(lambda: msgspec.json.decode(index, type=Index))

        def by_json() -> float:
            return seconds(lambda: [json.loads(raw) for raw in headers])

        ours = [sys.executable, "-m", "tiecheck", str(root)]
        start = [sys.executable, "-m", "tiecheck", "--version"]

        def judged() -> float:
            return process(ours) - process(start)

        total = sum(map(len, headers))
        print(
            f"\n{tensors:,} tensors, {shards} shards, {total / 1e6:.1f} MB of headers, {len(index) / 1e6:.1f} of index"
        )
        report("tiecheck DIR less its start, to typed headers", ratio(judged, typed, runs), goal)
        report("the same, to typed headers and index", ratio(judged, both, runs), goal)
        report("the same, to json's parse of the headers alone", ratio(judged, by_json, runs), 1)
        print(f"peak memory {peak([str(root)]):.0f} MiB" + (", goal 110 MiB" if tensors < 100_000 else ""))


def small() -> None:
    """A header of 290 tensors: no import that the large ones need."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make(root, 1, 290)
        ours = [sys.executable, "-m", "tiecheck", str(root)]
        click = [sys.executable, "-c", "import click"]
        print("\n290 tensors")
        report(
            "tiecheck DIR, to a process that imports click",
            ratio(lambda: process(ours), lambda: process(click), 9),
            1.5,
        )


def main() -> None:
    """Print the ratios and the peaks."""
    print(f"{'':<58} {'ours':>12} {'theirs':>12}  ratio  goal")
    small()
    large(163, 92_000, 1.3, 7)
    large(20, 1_000_000, 1.5, 3)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
