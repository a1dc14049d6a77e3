"""Bytes: two stored tensors of a gigabyte held against each other, against reading both once, and `torch.equal`.

`python tests/benchmarks/bench_values.py`; needs 2.2 GB of disk and 7 GB of memory, or takes half as much.
Warm: the pages are in memory. Cold: they were dropped before each run (`posix_fadvise`), which a virtual disk may
answer from a cache of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from safetensors import safe_open
from timing import note, ratio, report

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.compare import equality
from tiecheck.files.compare.equality import compare_bytes

MEMORY = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
DISK = shutil.disk_usage(tempfile.gettempdir()).free
WIDTH = 2048
ROWS = 256_000 if DISK > 4e9 and MEMORY > 7e9 else 128_000


def make(path: Path, *, equal: bool, tail: int = 0) -> None:
    """Two matrices of normal draws, the same one or not; or the same but for the last rows."""
    size = ROWS * WIDTH * 2
    header = {
        name: {"dtype": "BF16", "shape": [ROWS, WIDTH], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(("lm_head.weight", "model.embed_tokens.weight"))
    }
    text = json.dumps(header).encode()
    # No random bytes: a NaN among them would end `torch.equal` at once.
    first, second = (torch.randn(ROWS, WIDTH, dtype=torch.bfloat16).view(torch.uint8).numpy() for _ in range(2))
    if tail:
        second[:-tail] = first[:-tail]
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first.tofile(file)
        (first if equal else second).tofile(file)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call, those of the system for it included: others use the machine too."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def drop(path: Path) -> None:
    """Drop a file's pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours(path: Path) -> float:
    """Seconds of our comparison."""
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    tensors = tuple(t for t in (checkpoint.tensor(name) for name in checkpoint.names()) if t is not None)
    return seconds(lambda: compare_bytes(checkpoint, tensors))


def without_nan(path: Path) -> float:
    """Seconds of our comparison where nobody looks for NaN."""

    def blind(*_: object) -> bool:  # a mock that counts its calls is slower than the look
        return False

    with mock.patch.object(equality, "_holds_nan", blind):
        return ours(path)


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


def in_memory(first: torch.Tensor, second: torch.Tensor) -> float:
    """Seconds of `memcmp` over both in memory, which no comparison of files can be faster than."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return seconds(lambda: memcmp(first.data_ptr(), second.data_ptr(), first.nbytes))


def memory() -> float:
    """MiB at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the ratios and the growth of memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        same, other, end = (Path(directory) / f"{name}.safetensors" for name in ("same", "other", "end"))
        print(f"{f'two tensors of {ROWS * WIDTH * 2 / 1e6:.0f} MB':<58} {'ours':>12} {'theirs':>12}  ratio  goal")

        make(other, equal=False)
        told = min(ours(other) for _ in range(5)) * 1e3
        print(f"different everywhere: told in {told:.1f} ms, goal 5 ms")
        note("different tensors told apart", f"{told:.1f} ms", "< 5 ms", held=told < 5)
        drop(other)
        print(f"the same, cold: {ours(other) * 1e3:.1f} ms")
        other.unlink()

        make(end, equal=False, tail=1024)
        report("the last 1,024 rows differ, to reading", ratio(lambda: ours(end), lambda: read_once(end), 5), 1.5)
        end.unlink()

        make(same, equal=True)
        warm = ratio(lambda: ours(same), lambda: read_once(same), 9)
        report("equality proven, warm, to reading both once", warm, 1.1)
        halves = [torch.zeros(ROWS, WIDTH, dtype=torch.int16) for _ in range(2)]
        floor = ratio(lambda: in_memory(*halves), lambda: read_once(same), 9)
        report("memcmp of as much in memory, to the same", floor)
        look = ratio(lambda: ours(same) - without_nan(same), lambda: read_once(same), 9)
        report("of it the look for NaN, to reading both once", look, 1)
        halves.clear()

        def cold_ours() -> float:
            drop(same)
            return ours(same)

        def cold_read() -> float:
            drop(same)
            return read_once(same)

        def cold_torch() -> float:
            drop(same)
            return by_torch(same)

        report("equality proven, cold, to reading both once", ratio(cold_ours, cold_read, 7), 1.1)
        report("equality proven, cold, to torch.equal", ratio(cold_ours, cold_torch, 5), 1.1)
        report("equality proven, warm, to torch.equal", ratio(lambda: ours(same), lambda: by_torch(same), 5), 0.5)


def growth() -> None:
    """Print by how much a comparison grows a process, before anything large was in it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "hole.safetensors"
        size = 1 << 29
        header = {n: {"dtype": "BF16", "shape": [1 << 17, 1 << 11], "data_offsets": [i * size, (i + 1) * size]}
                  for i, n in enumerate("ab")}  # fmt: skip
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + 2 * size)
        with path.open("r+b") as file:
            for i in range(2):  # one value all over would be told another way
                file.seek(8 + len(text) + i * size)
                file.write(b"\1")
        read_once(path)
        before = memory()
        ours(path)
        grown = memory() - before
        print(f"memory grown by {grown:.0f} MiB, goal 32 MiB")
        note("memory grown by a comparison", f"{grown:.0f} MiB", "<= 32 MiB", held=grown <= 32)


if __name__ == "__main__":
    growth()
    main()
