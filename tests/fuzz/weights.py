"""Drawn safetensors files, indexes and layouts: healthy ones, with one thing or several made wrong."""

from __future__ import annotations

from typing import Any

from cases import FORMATS, Case, Draw, Pairs, Raw, encoded, written
from texts import CONFIG, drawn_config

PAIR = ("model.embed_tokens.weight", "lm_head.weight")
DTYPES = ("F32", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F64", "F8_E4M3", "F4", "F6_E2M3", "C64", "F8_E8M0")
BITS = {"F32": 32, "F16": 16, "BF16": 16, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6}


def safetensors(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A file of a header and its data; `length` is what it says of the header."""
    said = len(header) if length is None else length
    return (said % (1 << 64)).to_bytes(8, "little") + header + data


def sound_header(draw: Draw, names: tuple[str, ...] = PAIR) -> tuple[Pairs, int]:
    """A header that is right, and the bytes of its data."""
    made, at = Pairs(), 0
    shape = [draw.choice((4, 4, 4, 0, 3)), draw.choice((2, 2, 8))]
    for name in names:
        dtype = draw.choice(DTYPES) if draw.chance(0.2) else "F32"
        size = shape[0] * shape[1] * BITS.get(dtype, 8)
        if size % 8:
            dtype, size = "F32", shape[0] * shape[1] * 32
        entry = Pairs([("dtype", dtype), ("shape", list(shape)), ("data_offsets", [at, at + size // 8])])
        made.append((name, entry))
        at += size // 8
    if draw.chance(0.5):
        made.insert(0, ("__metadata__", Pairs([("format", "pt")])))
    return made, at


def _break(draw: Draw, header: Pairs) -> None:  # noqa: PLR0912  # a kind each
    """Make one thing of a header wrong."""
    at = draw.randrange(len(header)) if header else 0
    name, entry = header[at] if header else ("x", Pairs())
    fields = entry if isinstance(entry, Pairs) else Pairs()
    kind = draw.randrange(13)
    if kind == 0 and fields:
        field = draw.randrange(len(fields))
        fields[field] = (fields[field][0], draw.value())
    elif kind == 1 and fields:
        field = draw.randrange(len(fields))
        if isinstance(fields[field][1], list) and fields[field][1]:
            values = fields[field][1]
            values[draw.randrange(len(values))] = draw.choice((draw.number(), draw.value()))
    elif kind == 2 and fields:
        del fields[draw.randrange(len(fields))]
    elif kind == 3 and fields:
        fields.append(draw.choice((fields[0], (draw.word(), draw.value()))))
    elif kind == 4:
        header.append((name, draw.choice((entry, Pairs(fields), draw.value()))))
    elif kind == 5 and header:
        header[at] = (draw.word(), entry)
    elif kind == 6:
        header.append(("__metadata__", draw.choice((None, Pairs([("a", draw.value())]), draw.value()))))
    elif kind == 7 and header:
        header[at] = (name, draw.value())
    elif kind == 8:
        draw.shuffle(header)
    elif kind == 9 and fields:
        fields[:] = [(k, [0, draw.number()]) if k == "data_offsets" else (k, v) for k, v in fields]
    elif kind == 10 and fields:
        shape = [draw.number() for _ in range(draw.choice((0, 1, 2, 5, 60, 70)))]
        fields[:] = [(k, shape) if k == "shape" else (k, v) for k, v in fields]
    elif kind == 11 and header:
        del header[at]
    elif header:
        header[at] = (Raw(draw.choice(('"\\u0061.weight"', '"\\ud800"', '"a\\u0000b"', "a", "1"))), entry)


def drawn_weights(draw: Draw, names: tuple[str, ...] = PAIR) -> Any:
    """The content of a safetensors file: sound now and then, otherwise with something wrong; or a hole."""
    header, size = sound_header(draw, names)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        _break(draw, header)
    raw = encoded(draw, written(header))
    if draw.chance(0.1):
        raw += draw.choice((b" " * draw.randrange(9), b"\0", b"\n", b"x", b"{}"))
    data = bytes(size) if draw.chance(0.3) else draw.randbytes(size)
    length = draw.choice((draw.number(), len(raw) + draw.randint(-9, 9))) if draw.chance(0.08) else None
    whole = safetensors(raw, data, length)
    if draw.chance(0.1):
        whole = draw.choice((whole[: draw.randrange(len(whole) + 1)], whole + draw.randbytes(draw.randint(1, 9))))
    if draw.chance(0.002):
        count = draw.choice((1 << 20, 1 << 24, 1 << 33, 1 << 40))
        shape = [count // 8, 2]
        entries = [(n, Pairs([("dtype", "F32"), ("shape", shape), ("data_offsets", [i * count, (i + 1) * count])]))
                   for i, n in enumerate(names)]  # fmt: skip
        return {"head": safetensors(written(Pairs(entries)).encode(), b""), "hole": count * len(names)}
    return whole


def safetensors_case(draw: Draw) -> Case:
    """A directory of one safetensors file, with an honest config or none."""
    files: dict[str, Any] = {"model.safetensors": drawn_weights(draw)}
    if draw.chance(0.8):
        files["config.json"] = CONFIG
    return Case("safetensors", files)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def index_case(draw: Draw) -> Case:
    """A directory of an index and its shards, of which some are other than it says."""
    weight_map = Pairs(zip(PAIR, SHARDS, strict=True))
    files: dict[str, Any] = {"config.json": CONFIG}
    for name, shard in zip(PAIR, SHARDS, strict=True):
        sound = Draw(draw.random())
        header, size = sound_header(sound, (name,))
        files[shard] = (
            drawn_weights(draw, (name,)) if draw.chance(0.1) else safetensors(written(header).encode(), bytes(size))
        )
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        at = draw.randrange(len(weight_map)) if weight_map else 0
        kind = draw.randrange(8)
        if kind == 0 and weight_map:
            weight_map[at] = (weight_map[at][0], draw.choice((draw.value(), draw.text(), "../" + SHARDS[0])))
        elif kind == 1 and weight_map:
            spelling = "./" * draw.choice((1, 3, 400)) + draw.choice(("", "sub/../", "//")) + str(weight_map[at][1])
            weight_map[at] = (weight_map[at][0], spelling)
        elif kind == 2 and weight_map:
            del weight_map[at]
        elif kind == 3:
            weight_map.append((draw.word(), draw.choice((*SHARDS, "x.safetensors", "x.bin", draw.text()))))
        elif kind == 4 and weight_map:
            weight_map.append(weight_map[at])
        elif kind == 5:
            weight_map.extend((f"n{i}", f"s{i}.safetensors") for i in range(draw.choice((5, 300))))
        elif kind == 6:
            files.pop(draw.choice(SHARDS), None)
        else:
            files[draw.choice(SHARDS)] = _special(draw)
    top: Any = Pairs(
        [("metadata", draw.choice((Pairs([("total_size", 64)]), draw.value()))), ("weight_map", weight_map)]
    )
    if draw.chance(0.15):
        top = draw.choice((draw.value(), Pairs([("weight_map", draw.value())]), Pairs([*top, *top])))
    files["model.safetensors.index.json"] = encoded(draw, written(top))
    return Case("index", files)


def _special(draw: Draw) -> Any:
    """A thing that is no file to read."""
    return draw.choice(({"fifo": True}, {"link": "/etc/hostname"}, {"link": "/dev/zero"}, {"link": "."},
    {"link": "nowhere"},
                        {"link": SHARDS[1]}, {"link": "../../../etc/passwd"}, b"",
                        b"version https://git-lfs.github.com/spec/v1\n"))  # fmt: skip


BROUGHT = (
    "params.json", "consolidated.safetensors", "medusa_lm_head.pt", "model_index.json", "modules.json",
    "flax_model.msgpack", "tf_model.h5", "saved_model.pb", "x.nemo", "vocabulary.json", "zero_to_fp32.py",
    "latest_checkpointed_iteration.txt", ".metadata", "__0_0.distcp", "pytorch_model_fsdp_0", "mp_rank_00",
)  # fmt: skip
"""Names of other layouts: read, or refused by a sign of the table (`tiecheck/targets/layouts.py`)."""


def layouts_case(draw: Draw) -> Case:
    """A directory of several sets of weights, and of things that are none."""
    from archives import drawn_pickle

    files: dict[str, Any] = {"config.json": CONFIG if draw.chance(0.7) else drawn_config(draw)}
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
                 "model.fp16.safetensors", "adapter_model.safetensors", "trainer_state.json", "x.gguf", "y.onnx",
                 "z.pt", *BROUGHT):  # fmt: skip
        if draw.chance(0.03 if name in BROUGHT else 0.3):
            if draw.chance(0.1):
                files[name] = _special(draw)
            elif name.endswith(".index.json"):
                shard = draw.choice((*SHARDS, "pytorch_model.bin", "model.safetensors"))
                files[name] = written({"weight_map": dict.fromkeys(PAIR, shard)}).encode()
            elif name.endswith(".safetensors"):
                files[name] = drawn_weights(draw)
            elif name.endswith((".bin", ".pt")):
                files[name] = drawn_pickle(draw)
            else:
                files[name] = encoded(draw, written(draw.value()))
    return Case("layouts", files)


FORMATS |= {"safetensors": safetensors_case, "index": index_case, "layouts": layouts_case}
