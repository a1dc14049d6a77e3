"""Drawn files of `torch.save`: sound programs of pickle operations with some of them changed, in archives that lie."""

from __future__ import annotations

import pickletools
import struct

from cases import Draw

Program = list[bytes]
"""Operations of a pickle, each with its argument."""

NAMES = ("lm_head.weight", "model.embed_tokens.weight")
OPERATIONS = tuple(pickletools.opcodes)
ALLOWED = ("collections OrderedDict", "collections Counter", "torch Size", "torch FloatStorage", "torch HalfStorage",
           "torch BFloat16Storage", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch float32",
           "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter",
           "torch._utils _rebuild_parameter_with_state",
           "torch.nn.parameter Parameter", "torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch device",
           "torch.storage UntypedStorage", "torch.storage TypedStorage", "_codecs encode", "builtins bytearray",
           "builtins set",
           "builtins complex", "torch.serialization _get_layout", "torch._utils _rebuild_sparse_tensor",
           "torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage",
           "torch._utils _rebuild_nested_tensor",
           "torch._utils _rebuild_wrapper_subclass", "torch._utils _rebuild_device_tensor_from_numpy", "torch bfloat16",
           "torch.cuda FloatStorage", "torch FloatTensor", "torch.sparse FloatTensor",
           "torch per_tensor_affine")  # fmt: skip
FOREIGN = ("os system", "builtins eval", "builtins exec", "__builtin__ eval", "subprocess Popen", "posix system",
    "torch load", "x y",
           "builtins getattr", "numpy._core.multiarray _reconstruct", "torch._dynamo x", "argparse Namespace",
           "os.path join",
           "collections defaultdict", "__main__ Thing", "copyreg _reconstructor", "torch.jit load",
           "antigravity x")  # fmt: skip


def text(word: str) -> bytes:
    raw = word.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def name_of(pair: str) -> bytes:
    return f"c{pair.replace(' ', chr(10))}\n".encode()


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + struct.pack("<I", len(raw)) + raw


def tuple_of(*parts: Program | bytes) -> Program:
    made = [b"("]
    for part in parts:
        made += part if isinstance(part, list) else [part]
    return [*made, b"t"]


ORDERED: Program = [name_of("collections OrderedDict"), b")", b"R"]


VIEW: Program = [bytes(bytearray(b"N"))]
"""The sixth value of a storage's id in the older form; the zip form has five."""


def tensor(draw: Draw, key: str) -> Program:
    """A tensor of 32 numbers over a storage, by one of the calls that make one."""
    odd = draw.chance(0.15)
    shape = [draw.number() for _ in range(draw.choice((0, 1, 2, 3, 65)))] if odd else [8, 4]
    stride = [draw.number() for _ in shape] if odd and draw.chance(0.5) else ([4, 1] if len(shape) == 2 else shape)
    count = draw.number() if draw.chance(0.04) else 32
    offset = draw.number() if draw.chance(0.06) else 0
    dtype = (
        draw.choice(("torch HalfStorage", "torch.storage UntypedStorage", "torch ComplexFloatStorage", "x y"))
        if draw.chance(0.05)
        else "torch FloatStorage"
    )
    storage = [
        *tuple_of(
            text("storage"),
            name_of(dtype),
            text(key),
            text(draw.choice(("cpu", "cpu", "cpu", "cuda:0", "meta", "x"))),
            number(count),
            VIEW,
        ),
        b"Q",
    ]
    sizes = tuple_of(*map(number, shape)), tuple_of(*map(number, stride))
    made = [
        name_of("torch._utils _rebuild_tensor_v2"),
        *tuple_of(storage, number(offset), *sizes, b"\x89", ORDERED),
        b"R",
    ]
    if draw.chance(0.1):
        made = [name_of("torch._utils _rebuild_parameter"), *tuple_of(made, b"\x88", ORDERED), b"R"]
    elif draw.chance(0.06):
        state = [b"}", text(draw.choice(("numel", "stride", "detach", "shape", "x"))), number(5), b"s"]
        made = [name_of("torch._utils _rebuild_parameter_with_state"), *tuple_of(made, b"\x88", ORDERED, state), b"R"]
    elif draw.chance(0.06):
        made = [name_of("torch._tensor _rebuild_from_type_v2"),
                *tuple_of(name_of("torch._utils _rebuild_tensor_v2"), tuple_of(storage, number(offset), *sizes,
                b"\x89", ORDERED),
                          name_of(draw.choice(("torch Tensor", "torch.nn.parameter Parameter"))), [b"}"]),
                          b"R"]  # fmt: skip
    return made


def state_dict(draw: Draw) -> Program:
    """A state dict of two tensors, which may share a storage, in a dict or one that is below a key."""
    items: Program = [b"("]
    for i, name in enumerate(NAMES):
        items += [text(name if draw.chance(0.95) else draw.word()), *tensor(draw, "0" if draw.chance(0.5) else str(i))]
    made = [*(ORDERED if draw.chance(0.4) else [b"}"]), *items, b"u"]
    if draw.chance(0.1):
        made += [
            b"}",
            text(draw.choice(("items", "get", "keys", "_metadata", "x"))),
            draw.choice((number(5), b"}", name_of("torch Size"))),
            b"s",
            b"b",
        ]
    if draw.chance(0.1):
        made = [b"}", text(draw.choice(("state_dict", "model", "x"))), *made, b"s"]
    return made


def optimizer(draw: Draw) -> Program:
    """The `state_dict()` of an optimizer: moments by number or name, and the groups."""
    state: Program = [b"}", b"("]
    for i in range(2):
        key = number(i) if draw.chance(0.7) else text(NAMES[i])
        fields = [b"}", b"(", text("step"), number(3), text("exp_avg"), *tensor(draw, str(i)), b"u"]
        state += [key, *(fields if draw.chance(0.95) else tensor(draw, "0"))]
    numbers = [b"]", b"(", number(0), number(1) if draw.chance(0.9) else number(draw.number()), b"e"]
    group = [
        b"}",
        b"(",
        text("params"),
        *numbers,
        *((text("param_names"), b"]", b"(", text(NAMES[0]), text(NAMES[1]), b"e") if draw.chance(0.5) else ()),
        b"u",
    ]
    return [b"}", b"(", text("state"), *state, b"u", text("param_groups"), b"]", *group, b"a", b"u"]


def metadata(draw: Draw) -> Program:
    """The `.metadata` of a distributed checkpoint, a pickle of dataclasses."""

    def made(name: str, *pairs: tuple[str, Program]) -> Program:
        inside = [part for key, value in pairs for part in (text(key), *value)]
        return [
            name_of(f"torch.distributed.checkpoint.metadata {name}"),
            b")",
            b"\x81",
            b"}",
            b"(",
            *inside,
            b"u",
            b"b",
        ]

    names = [f"state.{name}.exp_avg" for name in NAMES]
    size = tuple_of(number(8), number(4)) if draw.chance(0.9) else tuple_of(number(draw.number()), text("x"))
    shapes = [b"}", b"(", *(p for n in names for p in (text(n), *made("T", ("size", size)))), b"u"]
    storage: Program = [b"}", b"("]
    for name in names:
        for i in range(draw.choice((1, 1, 2, 40))):
            path = draw.choice(("__0_0.distcp", "optimizer.pt", "../x", "/etc/hostname", ".metadata", draw.text()))
            offset = tuple_of(number(i), number(0) if draw.chance(0.9) else text("x"))
            length = number(draw.choice((6000, 0, draw.number())))
            storage += [*made("I", ("fqn", [text(name)]), ("offset", offset)),
                        *made("S", ("relative_path", [text(path)]), ("offset", [number(draw.choice((0,
                        draw.number())))]), ("length", [length]))]  # fmt: skip
    return made("Metadata", ("state_dict_metadata", shapes), ("storage_data", [*storage, b"u"]))


def bomb(draw: Draw) -> Program:  # noqa: PLR0911  # a kind each
    """Something small that is much work, or much memory, for who follows it."""
    kind = draw.randrange(7)
    depth = draw.choice((3, 20, 60, 255))
    if kind == 0:  # a tuple that holds the one before twice
        made: Program = [b")", b"q\x00"]
        for i in range(depth):
            made += [b"h" + bytes([i]), b"h" + bytes([i]), b"\x86", b"q" + bytes([(i + 1) % 256])]
        return [*made, b"N", b"s"] if draw.chance(0.5) else made
    if kind == 1:
        return [name_of("builtins bytearray"), *tuple_of(number(draw.choice((8 << 30, 1 << 20, 1 << 62)))), b"R"]
    if kind == 2:
        count = draw.choice((10, 1000, 20000))
        return [b"]"] * count + [b"a"] * (count - 1)
    if kind == 3:
        return [b"}", b"q\x00", text("x"), b"h\x00", b"s"]  # a dict that holds itself
    if kind == 4:
        return [b"r" + struct.pack("<I", draw.choice((0, 5, 1 << 31, 0xFFFFFFFF)))]
    if kind == 5:
        return [b"(", *[number(draw.number()) for _ in range(draw.choice((0, 1, 9, 3000)))], b"t"]
    return [
        name_of("_codecs encode"),
        *tuple_of(text("x" * draw.choice((1, 100000))), text(draw.choice(("utf-8", "rot13", "zip", "x")))),
        b"R",
    ]


def _operation(draw: Draw) -> bytes:
    """Any operation there is, with an argument of its form and any value."""
    operation = draw.choice(OPERATIONS)
    code = operation.code.encode("latin-1")
    form = operation.arg.name if operation.arg else ""
    raw = (
        draw.text().encode("utf-8", "surrogatepass")
        if draw.chance(0.5)
        else draw.randbytes(draw.choice((0, 1, 8, 300)))
    )
    line = raw.replace(b"\n", b"")
    if form.startswith("decimalnl"):
        return (
            code
            + draw.choice(
                (b"%d" % draw.choice((0, 1, 2, 255, -1, 1 << 40)), line, b"01", "\u00b2".encode(), b"9" * 5000)
            )
            + b"\n"
        )
    if form in ("stringnl", "unicodestringnl", "floatnl", "stringnl_noescape"):
        return code + draw.choice((line, b"'x'", b"'\\x", b"1e999", b"nan", b"\\ud800")) + b"\n"
    if form == "stringnl_noescape_pair":
        return code + name_of(draw.choice(ALLOWED if draw.chance(0.6) else FOREIGN))[1:]
    sizes = {"1": "<B", "4": "<I", "8": "<Q"}
    if form[-1:] in sizes and form[:3] in ("str", "uni", "byt", "lon"):
        count = draw.choice((0, (1 << 31) - 1, (1 << 63) + 1, 255)) if draw.chance(0.1) else len(raw)
        return code + struct.pack(sizes[form[-1]], count % (1 << {"1": 8, "4": 32, "8": 64}[form[-1]])) + raw
    width = {"uint1": 1, "uint2": 2, "int4": 4, "uint4": 4, "uint8": 8, "float8": 8}.get(form, 0)
    return code + (draw.choice((bytes(width), b"\xff" * width, draw.randbytes(width), b"\1" + bytes(width))))[:width]


def mutated(draw: Draw, program: Program) -> bytes:
    """The pickle of a program with some operations changed, or some bytes."""
    made = [b"\x80" + bytes([2 if draw.chance(0.97) else draw.randrange(256)]), *program, b"."]
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2, 4))):
        at = draw.randrange(len(made))
        kind = draw.randrange(9)
        if kind == 0:
            del made[at : at + draw.choice((1, 1, 2, 5))]
        elif kind == 1:
            made[at:at] = made[at : at + draw.choice((1, 1, 3))]
        elif kind == 2:
            other = draw.randrange(len(made))
            made[at], made[other] = made[other], made[at]
        elif kind in (3, 4):
            made[at : at + draw.randrange(2)] = [_operation(draw)]
        elif kind == 5:
            made[at : at + draw.randrange(2)] = [name_of(draw.choice(ALLOWED if draw.chance(0.7) else FOREIGN))]
        elif kind == 6:
            made[at : at + draw.randrange(2)] = bomb(draw)
        elif kind == 7:
            made[at] = draw.choice(
                (b"R", b"b", b"\x81", b"u", b"s", b"a", b"e", b"Q", b"t", b"0", b"1", b"2", b"(", b"q\x00", b"h\x00")
            )
        else:
            made[at : at + draw.randrange(2)] = [number(draw.number()) if draw.chance(0.5) else text(draw.word())]
        made = made or [b"."]
    if draw.chance(0.05):  # things asked for by name and called, of the classes that a state may hold
        made[-1:-1] = [
            b"0",
            name_of(draw.choice(ALLOWED)),
            *tuple_of(number(draw.number())),
            draw.choice((b"R", b"\x81")),
            b"}",
            b"b",
        ]
    raw = b"".join(made)
    return draw.damaged(raw) if draw.chance(0.1) else raw
