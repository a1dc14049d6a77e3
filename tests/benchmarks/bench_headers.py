"""Headers: large directories judged by their headers, against msgspec's typed parse of the same bytes, and json's.

`python tests/benchmarks/bench_headers.py`; needs some 300 MB of headers on disk, the data is a hole in the files. The
typed parse is a process of its own as the check is one (`typed_headers.py`): both import msgspec, read files and get
their memory from the system. What a start costs is measured by a check of a directory of 290 tensors.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import note, process, ratio, report, seconds
from typed_headers import header_of


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


def peak(command: list[str]) -> float:
    """MiB that a process takes at most; its `ru_maxrss` would count this process too, which it is forked from."""
    program = (
        "import runpy, sys; sys.argv = ['tiecheck', *sys.argv[1:]]\n"
        "try: runpy.run_module('tiecheck', run_name='__main__')\n"
        "finally: print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    return int(done.stderr.partition("VmHWM:")[2].split()[0]) / 1024


def large(shards: int, tensors: int, goal: float, runs: int) -> None:
    """A directory of many tensors."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as little:
        root = Path(directory)
        headers = [header_of(path) for path in make(root, shards, tensors)]
        make(Path(little), 1, 290)
        index = (root / "model.safetensors.index.json").read_bytes()
        tiecheck = [sys.executable, "-m", "tiecheck"]
        parse = [sys.executable, str(Path(__file__).with_name("typed_headers.py")), str(root)]
        python = [sys.executable, "-c", "pass"]

        def judged() -> float:
            return process([*tiecheck, str(root)]) - process([*tiecheck, little])

        def typed(*options: str) -> float:
            return process([*parse, *options]) - process(python)

        def by_json() -> float:
            return seconds(lambda: [json.loads(raw) for raw in headers])

        total = sum(map(len, headers))
        print(
            f"\n{tensors:,} tensors, {shards} shards, {total / 1e6:.1f} MB of headers, {len(index) / 1e6:.1f} of index"
        )
        whole = ratio(lambda: process([*tiecheck, str(root)]), lambda: process([*tiecheck, little]) + typed(), runs)
        small = tensors < 100_000  # of more, the index has to be read too
        what = f"{tensors:,} tensors, "
        report(f"{what}to a start and a typed parse of the headers", whole, goal if small else None)
        report("the same less its start, to a typed parse", ratio(judged, typed, runs))
        both = ratio(judged, lambda: typed("index"), runs)
        report(f"{what}to a typed parse of headers and index", both, None if small else goal)
        report("less its start, to json's parse of the headers, warm", ratio(judged, by_json, runs))
        most = peak([str(root)])
        print(f"peak memory {most:.0f} MiB")
        if small:
            note(f"{what}peak memory", f"{most:.0f} MiB", "<= 110 MiB", held=most <= 110)


def small() -> None:
    """A header of 290 tensors: no import that the large ones need."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make(root, 1, 290)
        ours = [sys.executable, "-m", "tiecheck", str(root)]
        click = [sys.executable, "-c", "import click"]
        print("\n290 tensors")
        report(
            "290 tensors, to a process that imports click",
            ratio(lambda: process(ours), lambda: process(click), 9),
            1.5,
        )


def main() -> None:
    """Print the ratios and the peaks."""
    print(f"{'':<58} {'ours':>12} {'theirs':>12}  ratio  goal")
    small()
    large(163, 92_000, 1.3, 7)
    large(20, 1_000_000, 1.7, 3)


if __name__ == "__main__":
    main()
