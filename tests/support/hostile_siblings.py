"""Siblings of each kind of hostile directory: the same fault class in another shape than the one that was reported."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from archives import legacy
from heavy_targets import DETR, deflated
from hostile_targets import (
    EMBED,
    HEAD,
    LLAMA,
    Due,
    Kind,
    Sound,
    archive,
    one_tensor,
    pickled,
    placed,
    safetensors,
    with_entry,
)
from pickles import ORDERED, name_of, number, state_dict, text

DRAW = random.Random(4114)
SIBLINGS: dict[str, Kind] = {}
"""Kind that was reported -> what makes a sibling of it, as a directory."""
ANY = "pass|fail|unknown|error"


def sibling(kind: str) -> Callable[[Kind], Kind]:
    def keep(make: Kind) -> Kind:
        def drawn(root: Path) -> Iterator[tuple[str, Due]]:
            DRAW.seed(kind)
            yield from make(root)

        SIBLINGS[kind] = drawn
        return make

    return keep


@sibling("cfg-huge-width")
def widths_below(root: Path) -> Iterator[tuple[str, Due]]:
    """In a section, in a list, in an adapter's config and as a real that is no finite number."""
    huge, weights = 10 ** DRAW.randint(400, 4000), {"model.safetensors": one_tensor()}
    placed(root, "section", **{"config.json": LLAMA | {"text_config": {"hidden_size": huge}}}, **weights)
    yield "section", Due("error", "a number of more than 300 digits")
    placed(root, "list", **{"config.json": LLAMA | {"hidden_sizes": [1, huge]}}, **weights)
    yield "list", Due("pass|error")
    placed(root, "real", **{"config.json": json.dumps(LLAMA).replace('"hidden_size": 4', '"hidden_size": 1e999').encode()}, **weights)  # fmt: skip  # noqa: E501
    yield "real", Due("fail|error|unknown", "hidden_size")
    adapter = {"peft_type": "LORA", "r": huge, "base_model_name_or_path": "base"}
    placed(root, "adapter", **{"config.json": None, "adapter_config.json": adapter, "adapter_model.safetensors": one_tensor()})  # fmt: skip  # noqa: E501
    yield "adapter", Due("error|unknown")


@sibling("fs-special-files")
def special_folders(root: Path) -> Iterator[tuple[str, Due]]:
    """Where a shard's folder, a part of a GGUF model, an ONNX file or an adapter should be."""
    index = {"model.safetensors.index.json": {"metadata": {}, "weight_map": {EMBED: "part/m.safetensors"}}}
    for name, there in (("link", "/etc"), ("loop", "part"), ("self", ".")):
        (placed(root, f"part-{name}", **index) / "part").symlink_to(there)
        yield f"part-{name}", Due("error|fail", r"part/m|is not here|outside")
    for name in ("a.gguf", "x.onnx", "adapter_config.json"):
        os.mkfifo(placed(root, f"pipe-{name}", **{"config.json": None}) / name)
        yield f"pipe-{name}", Due("error", "a pipe or a device|no config.json|cannot be")


@sibling("mem-many-dicts")
def values_of_other_files(root: Path) -> Iterator[tuple[str, Due]]:
    """Of a GGUF header, an ONNX graph, an adapter's config and a notebook."""
    many = b"".join((b"[]," * 4_000_000, b"[]"))
    placed(root, "adapter", **{"config.json": None, "adapter_model.safetensors": one_tensor()})
    (root / "adapter" / "adapter_config.json").write_bytes(b'{"peft_type":"LORA","x":[' + many + b"]}")
    yield "adapter", Due("error|unknown")
    empty = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x"
    empty += struct.pack("<IIQ", 9, 8, 1_000_000) + bytes(8 * 1_000_000)
    placed(root, "gguf", **{"config.json": None, "a.gguf": empty})
    yield "gguf", Due("error|unknown")
    placed(root, "onnx", **{"config.json": None, "a.onnx": b"\x3a\x80\x80\x80\x01" + b"\x0a\x00" * (1 << 20)})
    yield "onnx", Due("error|unknown|pass")
    cells = b'{"cells":[' + b'{"cell_type":"code","source":"lm_head.weight"},' * 20_000 + b"{}]}"
    placed(root, "notebook", **{"config.json": None, "a.ipynb": cells})
    yield "notebook", Due(ANY)


@sibling("mem-shard-aliases")
def one_file_by_links(root: Path) -> Iterator[tuple[str, Due]]:
    """Hard links, links and folders that are links: many names, one file."""
    entries = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    for kind in ("hard", "soft", "folder"):
        names = {f"n{i}": f"m{i}.safetensors" for i in range(200)}
        if kind == "folder":
            names = {name: f"{'d/' * (i % 30)}{'m.safetensors'}" for i, name in enumerate(names)}
        folder = placed(root, kind, **{"m.safetensors": safetensors(entries), "model.safetensors.index.json": {"weight_map": names}})  # fmt: skip  # noqa: E501
        if kind == "folder":
            (folder / "d").symlink_to(".")
        for name in names.values() if kind != "folder" else ():
            (os.link if kind == "hard" else os.symlink)(folder / "m.safetensors", folder / name)
        yield kind, Due("fail|error|unknown")


@sibling("nul-in-path")
def other_names_with_a_nul(root: Path) -> Iterator[tuple[str, Due]]:
    placed(root, "transformers", **{"config.json": LLAMA | {"transformers_weights": "a\0b.safetensors"}, "model.safetensors": one_tensor()})  # fmt: skip  # noqa: E501
    yield "transformers", Due("error|unknown|fail", "transformers_weights")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "ba\0se"}
    placed(root, "base", **{"config.json": None, "adapter_config.json": adapter, "adapter_model.safetensors": one_tensor()})  # fmt: skip  # noqa: E501
    yield "base", Due("error|unknown|fail")
    placed(root, "name", **{"model.safetensors": safetensors({"lm\0head": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})})  # fmt: skip  # noqa: E501
    yield "name", Due(ANY)


@sibling("opt-dcp-regex")
def names_that_repeat(root: Path) -> Iterator[tuple[str, Due]]:
    """A weight, an optimizer's name and a class that are one word a hundred thousand times over."""
    for i, word in enumerate(("model.layers.", "state.", "lm_head.", "0.", "experts.1.")):
        name = word * 100_000
        entry = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
        placed(root, f"weight-{i}", **{"model.safetensors": safetensors(entry)})
        yield f"weight-{i}", Due(ANY)
        placed(root, f"class-{i}", **{"config.json": LLAMA | {"architectures": [name]}, "model.safetensors": one_tensor()})  # fmt: skip  # noqa: E501
        yield f"class-{i}", Due(ANY)


@sibling("pickle-many-ops")
def operations_of_other_kinds(root: Path) -> Iterator[tuple[str, Due]]:
    """That make, memoise and drop lists, texts and classes, in the weights themselves and in an index's files."""
    for name, unit in (("lists", b"]0"), ("classes", b"ctorch\nSize\n0"), ("memo", b"Nq\x000"), ("marks", b"(1")):
        raw = deflated(b"\x80\x02" + unit * (12_000_000 // len(unit)) + b"}.")
        placed(root, name, **{"pytorch_model.bin": raw})
        yield name, Due("error|unknown", "operations in its pickles|it is no pickle|cannot|not read|bytes")
    index = {"metadata": {}, "weight_map": {f"n{i}": f"{i}.bin" for i in range(40)}}
    files = {f"{i}.bin": deflated(b"\x80\x02](" + b"N" * 200_000 + b"e.") for i in range(40)}
    placed(root, "shards", **files, **{"pytorch_model.bin.index.json": index})
    yield "shards", Due("error")


@sibling("pkl-attr")
def attributes_of_other_things(root: Path) -> Iterator[tuple[str, Due]]:
    """Of an ordered dict, a size and a nested dict, by BUILD."""
    made = {"dict": ORDERED, "size": [name_of("torch Size"), b")", b"R"], "plain": [b"}"]}
    for kind, program in made.items():
        for name in DRAW.sample(["__class__", "__len__", "__iter__", "shape", "dtype", "__hash__", "__eq__"], 2):
            entry = with_entry([text("x")], [*program, b"}", text(name), *number_of(5), b"s", b"b"])
            placed(root, f"{kind}-{name}", **{"pytorch_model.bin": archive(entry)})
            yield f"{kind}-{name}", Due(ANY)


def number_of(value: int) -> list[Any]:
    return [number(value)]


@sibling("pkl-build")
def other_methods_of_a_dict(root: Path) -> Iterator[tuple[str, Due]]:
    for name in (
        "values",
        "pop",
        "update",
        "copy",
        "__contains__",
        "__len__",
        "_metadata",
        "__setitem__",
        "__reduce__",
    ):
        program = [*ORDERED, *with_entry([text("x")], [b"N"])[1:], b"}", text(name), *ORDERED, b"s", b"b"]
        placed(root, name, **{"pytorch_model.bin": archive(program)})
        yield name, Due(ANY)


@sibling("pkl-hash-bomb")
def other_keys_that_hash(root: Path) -> Iterator[tuple[str, Due]]:
    """A size of sizes, a key within a nested dict, and one of a hundred arms."""
    for depth in DRAW.sample(range(20, 250), 2):
        size: list[Any] = [b")", b"q\0"]
        for i in range(depth):
            size += [name_of("torch Size"), b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x85R", b"q" + bytes([i + 1])]
        placed(root, f"size-{depth}", **{"pytorch_model.bin": archive(with_entry(size, [b"N"]))})
        yield f"size-{depth}", Due("error")
        wide: list[Any] = [b")", b"q\0"]
        for i in range(depth):
            wide += [b"(", *([b"h" + bytes([i])] * 100), b"t", b"q" + bytes([i + 1])]
        inner = [b"}", *wide, b"N", b"s"]
        placed(root, f"nested-{depth}", **{"pytorch_model.bin": archive(with_entry([text("x")], inner))})
        yield f"nested-{depth}", Due("error")


@sibling("pkl-odd")
def other_memory_that_is_asked_for(root: Path) -> Iterator[tuple[str, Due]]:
    """By a text, bytes and a number whose length is said to be terabytes, and by dicts within dicts."""
    for name, raw in (("text", b"\x8d"), ("bytes", b"\x8e"), ("array", b"\x96"), ("number", b"\x8b")):
        length = struct.pack("<i" if name == "number" else "<Q", (1 << 31) - 1 if name == "number" else 1 << 45)
        placed(root, name, **{"pytorch_model.bin": archive(with_entry([text("x")], [raw + length]))})
        yield name, Due("error")
    placed(root, "dicts", **{"pytorch_model.bin": archive(with_entry([text("x")], [b"}K\x01" * 300_000 + b"N" + b"s" * 300_000]))})  # fmt: skip  # noqa: E501
    yield "dicts", Due(ANY)


@sibling("pkl-record-short")
def other_files_that_are_short(root: Path) -> Iterator[tuple[str, Due]]:
    """Of safetensors, of torch before 1.6 and of GGUF."""
    sound = [part for part in state_dict(Sound("a")) if part != b"N"]
    old = legacy(Sound("a"), pickled(sound))
    for name, raw in (("model.safetensors", one_tensor()), ("pytorch_model.bin", old)):
        for cut in DRAW.sample(range(1, 120), 3):
            placed(root, f"{name}-{cut}", **{name: raw[:-cut]})
            yield f"{name}-{cut}", Due("error")
    from brought import drawn_gguf

    whole = next(raw for seed in range(99) if isinstance(raw := drawn_gguf(Sound(seed)), bytes) and len(raw) > 4000)
    placed(root, "gguf", **{"config.json": None, "a.gguf": whole[:-500]})
    yield "gguf", Due("error")


@sibling("pkl-zip-bomb")
def other_archives(root: Path) -> Iterator[tuple[str, Due]]:
    """Entries that lie in one another, a directory of many, and a bomb beside the pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("archive/data.pkl", b"\x80\x02}.")
        made.writestr("archive/version", b"3\n")
        for i in range(60_000):
            made.writestr(f"archive/data/{i}", b"")
    placed(root, "many", **{"pytorch_model.bin": out.getvalue()})
    yield "many", Due(ANY)
    raw = bytearray(deflated(b"\x80\x02}."))
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 42 : at + 46] = bytes(4)  # the last entry lies where the first one does
    placed(root, "overlap", **{"pytorch_model.bin": bytes(raw)})
    yield "overlap", Due("error|fail|unknown")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, held in (("data.pkl", b"\x80\x02}."), ("version", bytes(300 << 20)), ("byteorder", b"little")):
            made.writestr(f"archive/{name}", held)
    placed(root, "version", **{"pytorch_model.bin": out.getvalue()})
    yield "version", Due("error|fail|unknown")


@sibling("scale-odd-values")
def values_of_other_types(root: Path) -> Iterator[tuple[str, Due]]:
    """Every pattern of a byte, drawn ones of other types, and deviations of a config that are no numbers."""
    for dtype, size in (("BF16", 2), ("F16", 2), ("F32", 4), ("F64", 8), ("F8_E4M3", 1), ("F8_E5M2", 1)):
        raw = DRAW.randbytes(32 * size) if size > 1 else bytes(range(112, 128)) + bytes(range(240, 256))
        header = {n: {"dtype": dtype, "shape": [8, 4], "data_offsets": [i * len(raw), (i + 1) * len(raw)]}
                  for i, n in enumerate((EMBED, HEAD))}  # fmt: skip
        placed(root, dtype, **{"model.safetensors": safetensors(header, raw + raw)})
        yield dtype, Due("pass|unknown|fail")
    for value in ("1e308", "-1e308", "1e-320", "NaN", "Infinity", "-0.0"):
        config = json.dumps(LLAMA)[:-1] + f', "initializer_range": {value}, "logit_scale": {value}}}'
        placed(root, f"deviation{value}", **{"config.json": config.encode(), "model.safetensors": one_tensor()})
        yield f"deviation{value}", Due(ANY)


@sibling("sparse-large")
def other_holes(root: Path) -> Iterator[tuple[str, Due]]:
    """Of terabytes, in the place of every file that is read whole, and behind a sound beginning."""
    files = {"config.json": b"{", "model.safetensors.index.json": b"{", "pytorch_model.bin": b"PK\x03\x04",
             "adapter_config.json": b"{", "a.gguf": b"GGUF\3\0\0\0", "a.onnx": b"\x08\x07", "optimizer.pt": b"\x80\x02",
             ".metadata": b"\x80\x02", "trainer_state.json": b"{", "generation_config.json": b"{"}  # fmt: skip
    for name, head in files.items():
        beside = {"model.safetensors": one_tensor()} if name in {"optimizer.pt", ".metadata", "trainer_state.json", "generation_config.json"} else {}  # fmt: skip  # noqa: E501
        folder = placed(root, f"hole-{name.lstrip('.')}", **beside)
        (folder / name).write_bytes(head)
        os.truncate(folder / name, 4 << 40)
        yield folder.name, Due("pass|unknown|fail" if beside else ANY)


LIVE = {"options": ("--live",), "builds": True}


@sibling("live-config")
def other_configs_that_ask_for_much(root: Path) -> Iterator[tuple[str, Due]]:
    for key in DRAW.sample(("num_local_experts", "n_routed_experts", "num_codebooks", "decoder_layers"), 2):
        placed(root, key, **{"config.json": LLAMA | {"text_config": {key: 10**8}}})
        yield key, Due("error", f"{key} asks for 100,000,000", **LIVE)
    inner = {"model_type": "resnet", "_name_or_path": "example/other"}
    placed(root, "timm", **{"config.json": DETR | {"use_timm_backbone": True, "backbone": "hf-hub:example/backbone"}})
    yield "timm", Due("error", "built|backbone", **LIVE)
    placed(root, "named", **{"config.json": DETR | {"backbone_config": inner | {"num_layers": 10**7}}})
    yield "named", Due("error", "asks for 10,000,000", **LIVE)


@sibling("load-outside")
def other_ways_out_of_a_load(root: Path) -> Iterator[tuple[str, Due]]:
    placed(root, "outside", **{"m.safetensors": one_tensor(), "config.json": None})
    load = {"options": ("--load",), "builds": True}
    index = {"model.safetensors.index.json": {"metadata": {}, "weight_map": {EMBED: "part/m.safetensors"}}}
    (placed(root, "folder", **index) / "part").symlink_to("../outside")
    yield "folder", Due("error", "outside", **load)
    for name in ("adapter_model.safetensors", "tokenizer_config.json", "pytorch_model.bin"):
        (placed(root, f"link-{name}", **{"model.safetensors": one_tensor()}) / name).symlink_to(
            "../outside/m.safetensors"
        )
        yield f"link-{name}", Due("error", "outside the target directory", **load)
