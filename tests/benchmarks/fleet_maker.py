"""A fleet of model directories of known truth, sparse on the disk: `python fleet_maker.py ROOT COUNT [SEED]`.

Names and shapes are those of classes of transformers, built on meta. What is written beside header and config are the
few bytes that tell a trained model and two different tensors; all else are holes.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

CLASSES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 16, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "qwen2": {"num_hidden_layers": 24, "hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8},
    "mistral": {"num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "gpt2": {"n_layer": 12, "n_embd": 512, "n_head": 8},
    "opt": {
        "num_hidden_layers": 12,
        "hidden_size": 512,
        "ffn_dim": 2048,
        "word_embed_proj_dim": 512,
        "num_attention_heads": 8,
    },
    "phi": {"num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
}
"""model_type -> its config; the vocabulary is 32,000."""

ONE_WAY = {"gpt2": True, "phi": False}
"""model_type -> the flag that it has: with the other one some engine loses something, and that is found."""

FAULTS = {
    "diverged": {"TIE101"},
    "lost": {"TIE102"},
    "orphaned": {"TIE110"},
    "index": {"TIE201"},
    "broken": {"error"},
}
"""Fault -> what has to be found: the rules that warn, or that the model cannot be read."""

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


class Kind(NamedTuple):
    """A class of models, tied or not."""

    config: dict[str, Any]
    shapes: dict[str, list[int]]
    embedding: str
    head: str
    norm: str


def kinds() -> list[Kind]:
    """Every class, tied and not."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    found = []
    for model_type, settings in CLASSES.items():
        for tied in (ONE_WAY[model_type],) if model_type in ONE_WAY else (True, False):
            config = AutoConfig.for_model(
                model_type, vocab_size=32_000, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied, **settings
            )
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            names = {id(p): name for name, p in model.named_parameters()}
            embedding = names[id(model.get_input_embeddings().weight)]
            (head,) = (n for n, m in model.named_modules() if m is model.get_output_embeddings())
            shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
            config.architectures = [type(model).__name__]
            norm = next(n for n in shapes if "norm" in n.lower() or "ln_" in n)
            found.append(Kind(json.loads(config.to_json_string()), shapes, embedding, f"{head}.weight", norm))
    return found


def header(shapes: dict[str, list[int]]) -> tuple[bytes, dict[str, int], int]:
    """A header in bfloat16: its bytes, name -> where its data begins in the file, and the file's size."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, offsets = 0, {}
    for name, shape in shapes.items():
        count = 2
        for size in shape:
            count *= size
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + count]}
        offsets[name] = at
        at += count
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: begin + o for name, o in offsets.items()}, begin + at


def some(draw: random.Random) -> bytes:
    """Some bfloat16 numbers."""
    return b"".join(struct.pack("<f", draw.gauss(0, 0.02))[2:] for _ in range(64))


def write_weights(path: Path, made: tuple[bytes, dict[str, int], int], data: dict[str, bytes]) -> None:
    """Write a file of holes with some bytes where tensors begin."""
    text, offsets, size = made
    with path.open("wb") as file:
        file.write(text)
        for name, raw in data.items():
            if name in offsets:
                file.seek(offsets[name])
                file.write(raw)
        file.truncate(size)


def make_fleet(
    root: Path, count: int, seed: int = 1, *, faulty: float = 0.03, alike: bool = True
) -> dict[str, set[str]]:
    """Write a fleet.

    Args:
        root: An empty folder.
        count: Models.
        seed: Of what is drawn.
        faulty: The part of them that has a fault.
        alike: Whether models of one class have the same config; else each has its own `_name_or_path`.

    Returns:
        Path of each model -> what has to be found: codes of errors, or `error`.
    """
    draw = random.Random(seed)
    known = kinds()
    headers: dict[Any, tuple[bytes, dict[str, int], int]] = {}
    truth = {}
    for i in range(count):
        kind = draw.choice(known)
        tied = kind.config["tie_word_embeddings"]
        fault = draw.choice(list(FAULTS)) if draw.random() < faulty else None
        sharded = fault == "index" or draw.random() < 0.25
        fits = {"diverged": tied, "lost": not tied, "orphaned": tied}
        if fault is not None and not fits.get(fault, True):
            fault = "broken"
        stored = [
            n for n in kind.shapes if n != kind.head or (tied and fault == "diverged") or (not tied and fault != "lost")
        ]
        if fault == "orphaned":
            stored.remove(kind.embedding)
        folder = root / f"{i // 1000:04d}" / f"model-{i}"
        folder.mkdir(parents=True)
        write_model(
            folder, kind, stored, draw, headers, sharded=sharded, fault=fault, own=None if alike else f"org/{i}"
        )
        truth[str(folder)] = FAULTS[fault] if fault else set()
    return truth


def write_model(
    folder: Path,
    kind: Kind,
    stored: list[str],
    draw: random.Random,
    headers: dict[Any, Any],
    *,
    sharded: bool,
    fault: str | None,
    own: str | None,
) -> None:
    config = kind.config | ({"_name_or_path": own} if own else {})
    text = json.dumps(config, indent=2)
    (folder / "config.json").write_text(text[:-40] if fault == "broken" else text)
    data = {kind.embedding: some(draw), kind.head: some(draw), kind.norm: some(draw)}
    half = len(stored) // 2
    parts = [stored[:half], stored[half:]] if sharded else [stored]
    for name, part in zip(SHARDS if sharded else ["model.safetensors"], parts, strict=True):
        cut = fault if fault in {"diverged", "lost", "orphaned"} else ""
        key = (name, kind.config["model_type"], kind.config["tie_word_embeddings"], cut, len(part))
        if key not in headers:
            headers[key] = header({n: kind.shapes[n] for n in part})
        write_weights(folder / name, headers[key], data)
    if sharded:
        where = {n: name for name, part in zip(SHARDS, parts, strict=True) for n in part}
        if fault == "index":
            (folder / SHARDS[1]).unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


if __name__ == "__main__":
    where, number, *more = sys.argv[1:]
    made = make_fleet(Path(where), int(number), int(more[0]) if more else 1)
    Path(where, "truth.json").write_text(json.dumps({path: sorted(found) for path, found in made.items()}))
