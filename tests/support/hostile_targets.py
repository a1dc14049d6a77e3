"""Targets that are broken or malicious and small, a generator a kind, with what is due for each; without torch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from archives import zipped
from cases import Draw
from pickles import ORDERED, Program, name_of, number, state_dict, tensor, text, tuple_of

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True,
         "vocab_size": 8, "hidden_size": 4, "num_attention_heads": 1}  # fmt: skip


class Due(NamedTuple):
    """What has to be said of a target."""

    status: str
    """Its status, or several with a | between."""
    says: str = ""
    """A pattern that is found in an error, a skip or the reason."""
    options: tuple[str, ...] = ()
    builds: bool = False
    """True where torch is imported: then its own memory is not counted."""


Kind = Callable[[Path], Iterator[tuple[str, Due]]]
LIGHT: dict[str, Kind] = {}


def light(make: Kind) -> Kind:
    LIGHT[make.__name__] = make
    return make


class Sound(Draw):
    """A draw of which every case is a healthy one."""

    def chance(self, part: float) -> bool:
        return part > 0.5


def placed(root: Path, name: str, **files: Any) -> Path:
    """Write a directory of files; what is no text and no bytes is JSON, and a config is there unless None says no."""
    folder = root / name
    folder.mkdir(parents=True)
    for path, given in ({"config.json": LLAMA} | files).items():
        if given is not None:
            raw = given if isinstance(given, bytes) else json.dumps(given).encode()
            (folder / path).write_bytes(raw)
    return folder


def safetensors(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def one_tensor(raw: bytes = bytes(128), dtype: str = "F32") -> bytes:
    return safetensors({EMBED: {"dtype": dtype, "shape": [8, 4], "data_offsets": [0, len(raw)]}}, raw)


def pickled(program: Program) -> bytes:
    return b"\x80\x02" + b"".join(program) + b"."


def archive(program: Program) -> bytes:
    return zipped(Sound("a"), pickled(program))


def with_entry(key: Program, value: Program) -> Program:
    """A sound state dict in which another key stands."""
    sound = [part for part in state_dict(Sound("a")) if part != b"N"]
    return [*sound, *key, *value, b"s"]


METHODS = (
    "numel element_size untyped_storage storage_offset stride detach is_contiguous reshape size dim shape dtype "
    "data_ptr view t clone to cpu float __len__ __class__ __reduce_ex__ __setstate__ __dict__ __hash__ requires_grad"
)
"""What a tensor is asked for by whoever reads it."""


@light
def controls(root: Path) -> Iterator[tuple[str, Due]]:
    placed(root, "safetensors", **{"model.safetensors": one_tensor()})
    placed(root, "pickle", **{"pytorch_model.bin": archive(with_entry([text("x")], [b"N"]))})
    placed(root, "both", **{"model.safetensors": one_tensor(), "optimizer.bin": archive([b"}"])})
    for name in ("safetensors", "pickle", "both"):
        yield name, Due("pass")


CLASSES = (("t5", "T5ForConditionalGeneration"), ("cohere", "CohereForCausalLM"), ("llama", "LlamaForCausalLM"))


@light
def huge_widths(root: Path) -> Iterator[tuple[str, Due]]:
    for kind, name in (
        ("t5", "T5ForConditionalGeneration"),
        ("cohere", "CohereForCausalLM"),
        ("llama", "LlamaForCausalLM"),
    ):
        for key in ("d_model", "hidden_size", "logit_scale"):
            config = LLAMA | {"architectures": [name], "model_type": kind, key: 10**400}
            folder = f"width-{kind}-{key}"
            placed(root, folder, **{"config.json": config, "model.safetensors": one_tensor()})
            yield folder, Due("error", f"gives `{key}` a number of more than 300 digits")


SPECIAL = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "optimizer.pt",
           ".metadata", "optimizer.safetensors", "pytorch_model.bin.index.json")  # fmt: skip
"""Files of a directory that are opened: those of the model, and those beside it."""


@light
def special_files(root: Path) -> Iterator[tuple[str, Due]]:
    for name in SPECIAL:
        for kind in ("fifo", "socket", "device", "folder", "outside", "loop"):
            folder = f"special-{name.lstrip('.')}-{kind}"
            whole = name not in {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}
            files = {"config.json": None} if name == "config.json" else {}
            path = placed(root, folder, **files, **({"model.safetensors": one_tensor()} if whole else {})) / name
            if kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(path.parent):  # a socket's path is short
                    one.bind(name)
            elif kind == "folder":
                path.mkdir()
            else:
                path.symlink_to({"device": "/dev/zero", "outside": "/etc/hostname", "loop": name}[kind])
            beside = whole and name != "config.json"
            yield folder, Due("pass|unknown|fail" if beside else "error", name.replace(".", r"\."))


@light
def names_with_a_nul(root: Path) -> Iterator[tuple[str, Due]]:
    index = {"weight_map": {"a": "sub/\0x.safetensors"}}
    placed(root, "nul-index", **{"model.safetensors.index.json": index})
    yield "nul-index", Due("error", "no weights file by its ending")
    beside = {"weight_map": {"a": "sub/\0x.bin"}}
    placed(root, "nul-beside", **{"model.safetensors": one_tensor(), "pytorch_model.bin.index.json": beside})
    yield "nul-beside", Due("pass|unknown", "no weights file by its ending")


@light
def shadowed_methods(root: Path) -> Iterator[tuple[str, Due]]:
    for name in random.Random(14).sample(METHODS.split(), 12):
        state = [b"}", text(name), number(5), b"s"]
        call, value = name_of("torch._utils _rebuild_parameter_with_state"), tensor(Sound("a"), "0")
        made = [call, *tuple_of([part for part in value if part != b"N"], b"\x88", ORDERED, state), b"R"]
        placed(root, f"attribute-{name}", **{"pytorch_model.bin": archive(with_entry([text("x.weight")], made))})
        yield f"attribute-{name}", Due("pass|unknown|error|fail")
    for name in ("items", "get", "keys", "__getitem__", "__iter__"):
        for word, value in (("number", [number(5)]), ("class", [name_of("torch Size")]), ("dict", ORDERED)):
            program = [*ORDERED, *with_entry([text("x")], [b"N"])[1:], b"}", text(name), *value, b"s", b"b"]
            placed(root, f"dict-{name}-{word}", **{"pytorch_model.bin": archive(program)})
            yield f"dict-{name}-{word}", Due("pass|unknown|error|fail")


@light
def keys_that_hash_for_ever(root: Path) -> Iterator[tuple[str, Due]]:
    for depth in (12, 26, 60, 250):
        key: Program = [b")", b"q\0"]
        for i in range(depth):
            key += [b"h" + bytes([i]), b"\x86", b"q" + bytes([i + 1])]
        placed(root, f"hash-{depth}", **{"pytorch_model.bin": archive(with_entry(key, [b"N"]))})
        yield f"hash-{depth}", Due("error", "a key of nested tuples")


@light
def memory_that_is_asked_for(root: Path) -> Iterator[tuple[str, Due]]:
    for count in (8 << 30, 1 << 40, 1 << 62):
        asks = [name_of("builtins bytearray"), *tuple_of(number(count)), b"R"]
        placed(root, f"bytes-{count}", **{"pytorch_model.bin": archive(with_entry([text("x")], asks))})
        yield f"bytes-{count}", Due("error", f"asks for {count:,} bytes")


@light
def records_that_are_short(root: Path) -> Iterator[tuple[str, Due]]:
    whole = archive([part for part in state_dict(Sound("a")) if part != b"N"])
    for size in (0, 4, 127):
        folder = placed(root, f"short-{size}")
        (folder / "whole").write_bytes(whole)
        with zipfile.ZipFile(folder / "whole") as old, zipfile.ZipFile(folder / "pytorch_model.bin", "w") as new:
            for entry in old.infolist():
                raw = old.read(entry)
                new.writestr(entry.filename, raw[:size] if "/data/" in entry.filename else raw)
        yield f"short-{size}", Due("error", f"{size} are there")


@light
def odd_values(root: Path) -> Iterator[tuple[str, Due]]:
    for name, values, dtype, code in (
        ("huge", [1e200, -1e200] * 16, "F64", "d"), ("max", [1.7e308] * 32, "F64", "d"),
        ("both", [math.inf, -math.inf] * 16, "F32", "f"), ("inf", [math.inf] * 32, "F32", "f"),
        ("nan", [math.nan] * 32, "F32", "f"), ("big", [3e4, -3e4] * 16, "F16", "e"),
    ):  # fmt: skip
        raw = struct.pack(f"<32{code}", *values)
        placed(root, f"values-{name}", **{"model.safetensors": one_tensor(raw, dtype)})
        yield f"values-{name}", Due("pass|unknown|fail")


@light
def holes(root: Path) -> Iterator[tuple[str, Due]]:
    for name, size in (("gigabytes", 5 << 30), ("terabytes", 4 << 40)):
        entries = {n: {"dtype": "F32", "shape": [size // 16, 4], "data_offsets": [i * size, (i + 1) * size]}
                   for i, n in enumerate((HEAD, EMBED))}  # fmt: skip
        config = LLAMA | {"vocab_size": size // 16}
        folder = placed(root, f"hole-{name}", **{"config.json": config, "model.safetensors": safetensors(entries)})
        file = folder / "model.safetensors"
        os.truncate(file, file.stat().st_size + 2 * size)
        yield f"hole-{name}", Due("pass|unknown|fail")


SIBLINGS = 12
"""Drawn targets of each of four kinds, beside those that were met: other files, keys, sizes and spellings."""


@light
def drawn_siblings(root: Path) -> Iterator[tuple[str, Due]]:
    draw = random.Random(1130)
    for i in range(SIBLINGS):
        kind, name = draw.choice(CLASSES)
        key = draw.choice(("vocab_size", "num_attention_heads", "num_hidden_layers", "rope_theta", "logits_scaling"))
        config = LLAMA | {"architectures": [name], "model_type": kind, key: 10 ** draw.randint(301, 4000)}
        placed(root, f"drawn-{i}-width", **{"config.json": config, "model.safetensors": one_tensor()})
        yield f"drawn-{i}-width", Due("error", f"gives `{key}` a number of more than 300 digits")
        special = draw.choice(("model.gguf", "model.onnx", "adapter_model.safetensors", "model-00001-of-00001.bin"))
        path = placed(root, f"drawn-{i}-special", **{"model.safetensors": one_tensor()}) / special
        os.mkfifo(path) if draw.random() < 0.5 else path.symlink_to(
            draw.choice(("/dev/zero", "/etc/hostname", special))
        )
        yield f"drawn-{i}-special", Due("pass|unknown|error|fail")
        shard = "".join(draw.choices(("../", "/", "\0", "a/", "~/", "\\", "m", "\u202e"), k=4)) + draw.choice(
            ("x.safetensors", "x.bin", "")
        )
        placed(
            root, f"drawn-{i}-shard", **{"model.safetensors.index.json": {"metadata": {}, "weight_map": {EMBED: shard}}}
        )
        yield f"drawn-{i}-shard", Due("error|fail|unknown")
        depth, twice = draw.randint(10, 250), [b")", b"q\0"]
        for step in range(depth):
            twice += [
                draw.choice((b"h" + bytes([step]) + b"\x86", b"0h" + bytes([step]) + b"h" + bytes([step]) + b"\x86"))
            ]
            twice += [b"q" + bytes([step + 1])]
        placed(root, f"drawn-{i}-key", **{"pytorch_model.bin": archive(with_entry(twice, [b"N"]))})
        yield f"drawn-{i}-key", Due("error")
