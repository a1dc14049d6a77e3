"""Drawn files that are two things at once, and names that are one to somebody."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

from archives import drawn_pickle
from brought import drawn_gguf
from cases import FORMATS, Case, Draw, Pairs, written
from graphs import onnx_case
from texts import CONFIG
from weights import PAIR, drawn_weights, safetensors, sound_header

NAMES = ("model.safetensors", "pytorch_model.bin", "model.pt", "a.gguf", "a.onnx", "consolidated.00.pth",
         "model-00001-of-00001.safetensors", "config.json", "model.safetensors.index.json")  # fmt: skip


def _sound_pair(draw: Draw) -> bytes:
    header, size = sound_header(draw, PAIR)
    return safetensors(written(header).encode(), draw.randbytes(size))


def _onnx(draw: Draw) -> bytes:
    return next(raw for raw in onnx_case(draw).files.values())


def _bytes_of(draw: Draw) -> bytes:
    make: Callable[[Draw], Any] = draw.choice((_sound_pair, drawn_weights, drawn_pickle, drawn_gguf, _onnx))
    raw = make(draw)
    return raw if isinstance(raw, bytes) else raw["head"]


def _both(draw: Draw, first: bytes, second: bytes) -> bytes:
    """One file that begins as one format, and holds another: behind it, as its data, or in its header."""
    kind = draw.randrange(4)
    if kind == 0:
        return first + second
    if kind == 1:  # a safetensors file whose data are the other: a zip is found from its end
        entry = Pairs([("dtype", "U8"), ("shape", [len(second)]), ("data_offsets", [0, len(second)])])
        return safetensors(written(Pairs([(PAIR[0], entry)])).encode(), second)
    if kind == 2:  # the length of a header that is the other's first eight bytes
        return second[:8] + first
    at = draw.randrange(len(first) + 1)
    return first[:at] + second + first[at:]


def polyglot_case(draw: Draw) -> Case:
    """A directory in which one file or several are of two formats, mostly under the name of a third."""
    files: dict[str, Any] = {"config.json": CONFIG} if draw.chance(0.9) else {}
    for _ in range(draw.choice((1, 1, 2, 3))):
        first, second = _bytes_of(draw), _bytes_of(draw)
        files[draw.choice(NAMES)] = _both(draw, first, second) if draw.chance(0.8) else first
    return Case("polyglot", files)


TWINS: tuple[Callable[[str], str], ...] = (
    str.upper, str.title, lambda s: unicodedata.normalize("NFD", s.replace("e", "\u00e9")),
    lambda s: unicodedata.normalize("NFC", s.replace("e", "\u00e9")), lambda s: s.replace("e", "\u0435"),
    lambda s: s.replace("l", "\u017f"), lambda s: s + " ", lambda s: s + ".", lambda s: f"./{s}",
    lambda s: s.replace(".", "\u2024"),
    lambda s: s.replace("_", "\uff3f"), lambda s: f"\u200b{s}", lambda s: s.replace("i", "\u0131"), lambda s: s,
)  # fmt: skip
"""Another spelling that somebody takes for the same: case, normal forms, look-alikes, what Windows drops."""


def twin_case(draw: Draw) -> Case:
    """A directory whose names, keys and files stand there in twins: in its config, index, headers and hard links."""
    twin = draw.choice(TWINS)
    config = Pairs(json.loads(CONFIG).items())
    for _ in range(draw.choice((0, 1, 2))):
        key, value = draw.choice(config)
        config.append((draw.choice((key, twin(key))), draw.choice((value, draw.value(), True, False))))
    raw = written(config).encode("utf-8", "surrogatepass")
    files: dict[str, Any] = {"config.json": b"\xef\xbb\xbf" + raw if draw.chance(0.1) else raw}
    names = tuple(draw.choice((name, twin(name))) for name in (*PAIR, *PAIR))[: draw.choice((1, 2, 3, 4))]
    header, size = sound_header(draw, names)
    weights = safetensors(written(header).encode("utf-8", "surrogatepass"), draw.randbytes(size))
    file = draw.choice(("model.safetensors", "m.safetensors"))
    files[file] = weights
    other = twin(file)
    if "/" not in other and other != file:
        files[other] = draw.choice((weights, {"hard": file}, {"link": file}, _sound_pair(draw)))
    if draw.chance(0.6):
        where = Pairs((name, draw.choice((file, other, twin(other)))) for name in (*names, *PAIR))
        files["model.safetensors.index.json"] = written(Pairs([("weight_map", where)])).encode("utf-8", "surrogatepass")
    if draw.chance(0.2):
        files[draw.choice(("CONFIG.JSON", "pytorch_model.bin", "optimizer.pt"))] = {"hard": file}
    return Case("twin", files)


FORMATS |= {"polyglot": polyglot_case, "twin": twin_case}
