"""Drawn ONNX files and Python sources: healthy ones, with one thing or several made wrong."""

from __future__ import annotations

from typing import Any

from brought import NUMBERS
from cases import FORMATS, Case, Draw, encoded, written


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def _field(draw: Draw, number: int, value: int | bytes) -> bytes:
    """A field of a message, now and then of another number, kind or length."""
    if draw.chance(0.004):
        number = draw.choice((0, 1, 5, 7, 9, 13, 99, 1 << 28))
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    kind = draw.choice((0, 1, 3, 5, 7)) if draw.chance(0.003) else 2
    length = draw.choice(NUMBERS) if draw.chance(0.004) else len(value)
    return _number(number << 3 | kind) + _number(length) + value


def _text(draw: Draw, number: int, word: str) -> bytes:
    return _field(draw, number, word.encode("utf-8", "replace"))


def _tensor(draw: Draw, name: str, odd: float) -> bytes:
    shape = [draw.choice(NUMBERS) for _ in range(draw.choice((0, 1, 3, 70)))] if draw.chance(odd) else [4, 2]
    dims = [_field(draw, 1, size) for size in shape]
    if draw.chance(0.3):
        dims = [_field(draw, 1, b"".join(map(_number, shape)))]
    kind = draw.choice((0, 3, 16, 99, 1 << 40)) if draw.chance(odd) else draw.choice((1, 1, 10))
    data = [_field(draw, 9, draw.randbytes(1) * (8 * (4 if kind == 1 else 2)))]
    if draw.chance(0.2):
        place = draw.choice(("m.data", "../../x", "/etc/hostname", "x\0y", "", "sub/m.data", "m.onnx", draw.word()))
        offset = str(draw.choice((0, 0, 7, -1, "", 10**30)))
        said = (("location", place), ("offset", offset), ("length", draw.word()))
        data = [_field(draw, 13, _text(draw, 1, key) + _text(draw, 2, value)) for key, value in said]
    return b"".join((*dims, _field(draw, 2, kind), _text(draw, 8, name), *data))


def _table(draw: Draw, name: str, odd: float) -> bytes:
    """A tensor among the initialisers, or one that a `Constant` node gives, mostly under its name and once."""
    tensor = _tensor(draw, name if draw.chance(0.9) else "", odd)
    if draw.chance(0.6):
        return _field(draw, 5, tensor)
    held = _text(draw, 1, "value") + _field(draw, 5, tensor) * (2 if draw.chance(0.05) else 1)
    node = _text(draw, 2, name) * draw.choice((1, 1, 1, 1, 0, 2)) + _text(draw, 4, "Constant")
    attribute = _field(draw, 5, held if draw.chance(0.95) else draw.randbytes(9))
    return _field(draw, 1, node + attribute if draw.chance(0.9) else attribute + node)


def _graph(draw: Draw, odd: float, depth: int = 0) -> bytes:
    names = [draw.choice(("wte", "head", "w")) if draw.chance(0.9) else draw.word() for _ in range(3)]
    fields = [_table(draw, name, odd) for name in names]
    for kind, inputs in (("Gather", names[:2]), ("MatMul", ["x", *names[1:]]), ("If", [])):
        node = b"".join(_text(draw, 1, one) for one in inputs) + _text(draw, 4, kind)
        if depth < 12 and draw.chance(0.3 if depth else 0.1):
            node += _field(draw, 5, _field(draw, 6, _graph(draw, odd, depth + 1)))
        fields.append(_field(draw, 1, node))
    return b"".join(fields)


def onnx_case(draw: Draw) -> Case:
    """One ONNX file, or two, with external data beside."""
    files: dict[str, Any] = {}
    for name in draw.choice((("m.onnx",), ("m.onnx",), ("a.onnx", "b.onnx"))):
        odd = draw.choice((0.0, 0.0, 0.1, 0.5))
        raw = _field(draw, 1, 8) + _field(draw, 7, _graph(draw, odd)) * (2 if draw.chance(0.02) else 1)
        files[name] = draw.damaged(raw) if draw.chance(0.3) else raw
    files["m.data"] = bytes(draw.choice((0, 64, 64)))
    return Case("onnx", files)


LINES = tuple(
    r"""class {n}(nn.Module):
class {n}(PreTrainedModel):
class {n}({n}):
    def __init__(self, config):
    def tie_weights(self):
        super().__init__()
        self.wte = nn.Embedding(9, 4)
        self.lm_head = nn.Linear(4, 9)
        self.lm_head.weight = self.wte.weight
        self.wte.weight = self.lm_head.weight
        self.layers = nn.ModuleList([Block()] * 3)
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(3)])
        self.post_init()
        self.apply(self._init_weights)
        self.tie_weights()
    _tied_weights_keys = ['lm_head.weight']
    _tied_weights_keys = {'lm_head.weight': 'wte.weight', '{t}': '{t}'}
    def forward(self, x):
        return F.linear(x, self.wte.weight)
        if config.tie_word_embeddings:
        for {n} in self:
            self.a.weight = nn.Parameter(self.b.weight.clone())
def make():
    m = {n}()
    m.load_state_dict(torch.load('x'))
    m.to_empty(device='cuda')
    m.tie_weights()
x = '''{t}
y = "{t}"
# tiecheck: ignore[TIE802] {t}
# tiecheck: ignore-file
# coding: {t}
# coding: undefined
lambda tie: {t}
async def tie(): await {t}
match tie:
    case {t}:
tie = {t}
@{t}
%time {t}
""".splitlines()
)
NESTS = (("(", ")"), ("[", "]"), ("{", "}"), ("f(", ")"), ("not ", ""), ("-", ""), ("a[", "]"), ("x if ", " else 1"),
    ("lambda: ", ""), ("a.", ""), ("1+", ""))  # fmt: skip


def _code(draw: Draw) -> str:
    lines = [LINES[draw.randrange(3)], LINES[3], *LINES[5:9]] if draw.chance(0.7) else []
    for _ in range(draw.choice((0, 1, 3, 8))):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(LINES))
    made = "\n".join(lines).replace("{n}", draw.choice(("A", "B", "Model", "\u00e9"))).replace("{t}", draw.word())
    if draw.chance(0.05):
        opened, closed = draw.choice(NESTS)
        depth = draw.choice((5, 80, 900, 20_000))
        made += f"\ntie = {opened * depth}1{closed * depth}"
    return made + draw.choice(("\n", "", "\r", "\f", "\n" * 3000))


def source_case(draw: Draw) -> Case:
    """Python files and notebooks, in some order of lines that mostly parses, nested or damaged."""
    files: dict[str, Any] = {}
    for number in range(draw.choice((1, 1, 2))):
        text = _code(draw)
        if draw.chance(0.3):
            sources = (text, text.splitlines(keepends=True), draw.value())
            kinds = ("code", "code", "markdown", draw.word())
            cells: Any = [{"cell_type": draw.choice(kinds), "source": draw.choice(sources)} for _ in range(2)]
            book = {"cells": cells if draw.chance(0.9) else draw.value(), "metadata": {"tie": draw.value()}}
            files[f"m{number}.ipynb"] = encoded(draw, written(book if draw.chance(0.97) else draw.value()))
        else:
            files[f"m{number}.py"] = encoded(draw, text)
    return Case("source", files)


FORMATS |= {"onnx": onnx_case, "source": source_case}
