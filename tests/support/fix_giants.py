"""Checkpoints of any size whose fix writes weights anew, made without torch, and their fixes in another process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HIDDEN = 1024
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": True,
    "hidden_size": HIDDEN,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
HEAD, SOURCE = "lm_head.weight", "model.embed_tokens.weight"
PIECE = 8 << 20


def write_giant(where: Path, nbytes: int, *, sharded: bool, sparse: bool) -> None:
    """Write a tied Llama with a stale head: a quarter is the embedding, a quarter the head, the rest lies beside."""
    where.mkdir(parents=True)
    rows = nbytes // 4 // (2 * HIDDEN)
    config = {**CONFIG, "vocab_size": rows}
    (where / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    own = {HEAD: rows, "model.layers.0.mlp.up_proj.weight": 2 * rows}
    shards = [{SOURCE: rows}, own] if sharded else [{SOURCE: rows} | own]
    names = [f"model-0000{n + 1}-of-00002.safetensors" for n in range(2)] if sharded else ["model.safetensors"]
    for name, held in zip(names, shards, strict=True):
        _write_shard(where / name, held, sparse=sparse)
    if sharded:
        weight_map = {tensor: name for name, held in zip(names, shards, strict=True) for tensor in held}
        index = {"metadata": {"total_size": 4 * rows * 2 * HIDDEN}, "weight_map": weight_map}
        (where / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_shard(path: Path, held: dict[str, int], *, sparse: bool) -> None:
    at, header = 0, {"__metadata__": {"format": "pt"}}
    for name, rows in held.items():
        size = rows * HIDDEN * 2
        header[name] = {"dtype": "BF16", "shape": [rows, HIDDEN], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = random.Random(path.name)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        piece = draw.randbytes(min(PIECE, at))
        for begin in range(0, at, PIECE):
            count = min(PIECE, at - begin)
            if sparse:
                file.seek(start + begin)
                file.write(piece[: min(4096, count)])
            else:
                file.write(piece[7:count] + begin.to_bytes(7, "little"))
        file.truncate(start + at)


def linked(source: Path, where: Path) -> Path:
    """Make a directory of the same files, by hard links: a fix replaces names and writes into no file."""
    where.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, where / path.name)
    return where


CHILD = """
import json, os, resource, signal, sys, time
from tiecheck.config.options import Config
from tiecheck.fix import run
from tiecheck.files.compare import equality
import tiecheck.files.safetensors.header, tiecheck.stored.groups, tiecheck.peers.loaders.matrix

target, number, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
seen, words = 0, []

def anonymous():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1])

start, begin = anonymous(), time.perf_counter()
highest = start

def step(word):
    global seen, highest
    seen += 1
    highest = max(highest, anonymous())
    words.append([word.rpartition("/")[2], time.perf_counter() - begin])
    if seen == number:
        os.kill(os.getpid(), signal.SIGKILL)

options = run.FixOptions("tied", unsafe=True, apply=True, rehearse=False)
try:
    outcome = run.fix_target(target, Config(), options, step=step)
    said = outcome.undone[0] if outcome.undone else ""
except run.TargetError as error:
    said = str(error)
print(json.dumps([said, time.perf_counter() - begin, highest - start, words]))
"""


class Told(NamedTuple):
    """What became of one fix."""

    code: int
    said: str = ""
    """The reason why it was not made; empty where it was."""
    seconds: float = 0.0
    grown: int = 0
    """KiB of the process's own memory above what it had at the start."""
    words: tuple[tuple[str, float], ...] = ()
    """Each write, with the second after which it came."""


def fix_apart(target: Path, *, kill_at: int = 0, limit: int = 0) -> Told:
    """Fix a directory in another process.

    Args:
        target: The directory.
        kill_at: The write at which it is killed; 0 for none.
        limit: Bytes that a file may have at most, as on a full disk; 0 for any.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(target), str(kill_at), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return Told(done.returncode, done.stderr)
    said, seconds, grown, words = json.loads(done.stdout)
    return Told(0, said, seconds, grown, tuple((word, at) for word, at in words))


def content_of(where: Path) -> dict[str, bytes]:
    """Every tensor by some of its bytes, the config by all of them: what a directory holds, however it is laid out."""
    held = {"config.json": (where / "config.json").read_bytes()}
    for path in sorted(where.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                places = range(begin, end, max(PIECE, (end - begin) // 16))
                held[name] = b"".join(os.pread(file.fileno(), min(4096, end - at), 8 + length + at) for at in places)
    index = where / "model.safetensors.index.json"
    if index.exists():
        held["index"] = " ".join(sorted(json.loads(index.read_text())["weight_map"])).encode()
    return held


def kill_everywhere(pristine: Path, scratch: Path) -> list[bool]:
    """Kill a fix at each of its writes, and let the next one clear up; True for each that ended with the new model.

    Raises:
        AssertionError: Something is lost: what is there is neither the old model nor the new one.
    """
    whole = linked(pristine, scratch / "whole")
    told = fix_apart(whole)
    assert not told.said, told
    old, new = content_of(pristine), content_of(whole)
    ends = []
    for number in range(1, len(told.words) + 1):
        there = linked(pristine, scratch / "killed")
        assert fix_apart(there, kill_at=number).code == -9
        subprocess.run([sys.executable, "-m", "tiecheck", "fix", str(there)], capture_output=True, check=False)
        now = content_of(there)
        assert now in (old, new), f"killed at {told.words[number - 1]}"
        assert not list(there.glob(".tiecheck*"))
        ends.append(now == new)
        for path in there.iterdir():
            path.unlink()
        there.rmdir()
    return ends
