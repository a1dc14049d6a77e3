"""Bytes: two stored tensors of 512 MB held against each other, against reading both once, and `torch.equal`.

`python tests/benchmarks/bench_values.py`; needs 1.1 GB of disk. Pages are warm.
"""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from timing import ratio, report, seconds

from tiecheck.collect.checkpoint import read_checkpoint
from tiecheck.collect.values import compare

ROWS, WIDTH = 128_000, 2048


def make(path: Path, *, equal: bool) -> None:
    """Two matrices of normal draws, the same one or not."""
    size = ROWS * WIDTH * 2
    header = {
        name: {"dtype": "BF16", "shape": [ROWS, WIDTH], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(("lm_head.weight", "model.embed_tokens.weight"))
    }
    text = json.dumps(header).encode()
    # No random bytes: a NaN among them would end `torch.equal` at once.
    first, second = (torch.randn(ROWS, WIDTH, dtype=torch.bfloat16).view(torch.uint8).numpy() for _ in range(2))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first.tofile(file)
        (first if equal else second).tofile(file)


def ours(path: Path) -> float:
    """Seconds of our comparison."""
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    tensors = tuple(t for t in (checkpoint.tensor(name) for name in checkpoint.names()) if t is not None)
    return seconds(lambda: compare(checkpoint, tensors))


def read_once(path: Path) -> float:
    """Seconds of reading the file once in blocks of the same size."""

    def work() -> None:
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(256 * 1024)
            while file.readinto(buffer):
                pass

    return seconds(work)


def by_torch(path: Path) -> float:
    """Seconds of loading both and `torch.equal`."""

    def work() -> bool:
        with safe_open(path, framework="pt") as file:
            return torch.equal(file.get_tensor("lm_head.weight"), file.get_tensor("model.embed_tokens.weight"))

    return seconds(work)


def main() -> None:
    """Print the ratios and the growth of memory."""
    with tempfile.TemporaryDirectory() as directory:
        same, other = Path(directory) / "same.safetensors", Path(directory) / "other.safetensors"
        make(same, equal=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours(same)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{'two tensors of 524 MB, warm':<58} {'ours':>12} {'theirs':>12}  ratio  goal")
        report("equality proven, against reading both once", ratio(lambda: ours(same), lambda: read_once(same), 5), 0.7)
        report("equality proven, against torch.equal", ratio(lambda: ours(same), lambda: by_torch(same), 5), 1)
        same.unlink()
        make(other, equal=False)
        report("difference and its rows, against reading", ratio(lambda: ours(other), lambda: read_once(other), 5), 1.5)
        print(f"memory grown by {grown:.0f} MiB, goal 32 MiB")


if __name__ == "__main__":
    main()
