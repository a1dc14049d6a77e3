"""Headers: a directory of 92 thousand tensors in 163 shards, against msgspec's typed parse of the same bytes.

`python tests/benchmarks/bench_headers.py`; needs some 12 MB of headers on disk, the data is a hole in the files.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

import msgspec
from timing import process, ratio, report, seconds

from tiecheck.collect.safetensors_entry import Entry

SHARDS, TENSORS = 163, 92_000


def make(root: Path) -> list[Path]:
    """A mixture-of-experts checkpoint by its headers: config, index, sparse shards."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    (root / "config.json").write_text(json.dumps(config))
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    names += [
        f"model.layers.{i // 1500}.mlp.experts.{i // 3 % 500}.{'gud'[i % 3]}_proj.weight" for i in range(TENSORS - 2)
    ]
    weight_map, paths = {}, []
    for shard in range(SHARDS):
        mine = names[shard::SHARDS]
        path = root / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
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


def main() -> None:
    """Print the ratio and the peak memory."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        headers = []
        for path in make(root):
            with path.open("rb") as file:
                headers.append(file.read(int.from_bytes(file.read(8), "little")))

        def typed() -> float:
            return seconds(lambda: [msgspec.json.decode(raw, type=dict[str, Entry]) for raw in headers])

        ours = [sys.executable, "-m", "tiecheck", str(root)]
        start = [sys.executable, "-m", "tiecheck", "--version"]
        print(f"{'92k tensors, 163 shards':<58} {'ours':>12} {'msgspec':>12}  ratio  goal")
        report("tiecheck DIR less its start", ratio(lambda: process(ours) - process(start), typed, 5), 1.3)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"peak memory {peak:.0f} MiB, goal 110 MiB")


if __name__ == "__main__":
    main()
