"""Graphs of ONNX files by their wire format: initialisers and who reads them. No tensor is read, and nothing external.

Field numbers are those of `onnx.proto` (onnx 1.23). A field that is not known is passed over, as protobuf does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NoReturn

from tiecheck.errors import TargetError
from tiecheck.files.limits import FIELDS, READ, target_account
from tiecheck.files.local import open_regular, path_inside, refuse_pointer
from tiecheck.records.artefacts import OnnxGraph
from tiecheck.records.stored import Checkpoint, Shard

MODEL_GRAPH, NODE, INITIALIZER, ATTRIBUTE = 7, 1, 5, 5
TENSOR = 5
SUBGRAPHS = (6, 11)
"""Fields of an attribute that are graphs (`If`, `Loop`)."""

DEPTH = 8
MOST_DIMS = 64
SMALL = 1 << 16
"""Bytes of a field that is read as text or as numbers; what is longer is data."""

VIEWS = ("Identity", "Transpose", "Cast", "DequantizeLinear")
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
"""Nodes that give out what they read in another form, and those that multiply by their second input."""

TYPES = {1: ("F32", 4), 2: ("U8", 1), 3: ("I8", 1), 6: ("I32", 4), 7: ("I64", 8), 10: ("F16", 2), 11: ("F64", 8),
         16: ("BF16", 2)}  # fmt: skip
"""Data types -> safetensors' words, and bytes of an element."""


def read_onnx(path: str) -> OnnxGraph:
    """Return the initialisers of an ONNX file, with the names that embeddings and products read."""
    folder, name = os.path.split(os.path.abspath(path))
    with os.fdopen(open_regular(path, path), "rb", buffering=1 << 16) as file:
        reader = _Reader(file, path)
        refuse_pointer(reader.peek(), path)
        for field, start, end in reader.fields(0, reader.size):
            if field == MODEL_GRAPH:
                reader.graph(start, end, 0)
    if not reader.seen_graph:
        raise TargetError(f"{path} is broken, or no ONNX file: it holds no graph", path)
    shards: dict[str, dict[str, Any]] = {name: {}}
    for tensor, (place, entry) in reader.tensors.items():
        shards.setdefault(place or name, {})[tensor] = entry
    held = tuple(Shard(place, 0, entries) for place, entries in shards.items())
    for shard in held[1:]:
        _check_length(folder, shard)
    checkpoint = Checkpoint("onnx", folder, held, None, {}, (), {})
    asked = reader.tables | reader.matrices
    return OnnxGraph(checkpoint, *map(_sorted, (reader.tables, reader.matrices, asked & reader.placeless)))


def _check_length(folder: str, shard: Shard) -> None:
    """Refuse external data that ends before an initialiser does, as onnx does; what is not here is not looked at."""
    size = None
    with contextlib.suppress(OSError, TargetError, ValueError):
        size = os.stat(path_inside(folder, shard.path)).st_size
    for name, entry in shard.entries.items():
        if size is not None and entry["data_offsets"][1] > size:
            raise TargetError(f"{shard.path} is broken: it has {size:,} bytes, and {name} goes beyond them", shard.path)


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


class _Reader:
    """The messages of one file."""

    def __init__(self, file: Any, path: str) -> None:
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.seen_graph = False
        self.tensors: dict[str, tuple[str | None, dict[str, Any]]] = {}
        """Name -> the file of external data, and the entry as a safetensors header has it."""
        self.tables: set[str] = set()
        self.matrices: set[str] = set()
        self.views: dict[str, str] = {}
        """Name that a node gives out -> the name that it is another view of."""
        self.placeless: set[str] = set()
        """Initialisers of two dimensions whose data is stored as numbers, or in a type that is not known."""

    def refuse(self, why: str) -> NoReturn:
        """Refuse the file."""
        raise TargetError(f"{self.path} is broken, or no ONNX file: {why}", self.path)

    def peek(self) -> bytes:
        """Return the first bytes."""
        return bytes(self.file.read(64))

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the fields of a message: number, and where the value lies; of a number its value, twice."""
        at = start
        while at < end:
            target_account().take(FIELDS, 1, self.path)
            key, at = self._varint(at, end)
            field, kind = key >> 3, key & 7
            if not field:
                self.refuse("a field has the number 0")
            if kind == 0:
                value, at = self._varint(at, end)
                yield field, value, value
                continue
            if kind == 2:
                length, at = self._varint(at, end)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                self.refuse(f"a field has the wire type {kind}")
            if length > end - at:
                self.refuse("a field ends behind the message that it is in")
            yield field, at, at + length
            at += length

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        self.file.seek(at)
        raw = self.file.read(min(10, end - at))
        value = 0
        for i, byte in enumerate(raw):
            value |= (byte & 127) << (7 * i)
            if byte < 128:
                break
        else:
            self.refuse("a number has no end")
        return value, at + i + 1

    def text(self, start: int, end: int) -> str:
        """Return a short text."""
        if end - start > SMALL:
            self.refuse(f"a name has {end - start:,} bytes")
        if start == end:  # or a number in the place of a text
            return ""
        target_account().take(READ, end - start, self.path)
        self.file.seek(start)
        try:
            return str(self.file.read(end - start).decode())
        except UnicodeDecodeError:
            self.refuse("a name is not UTF-8")

    def graph(self, start: int, end: int, depth: int) -> None:
        """Read the initialisers and nodes of a graph, and of those inside."""
        self.seen_graph = True
        if depth > DEPTH:
            self.refuse(f"graphs are nested more than {DEPTH} deep")
        for field, begin, stop in self.fields(start, end):
            if field == INITIALIZER:
                self._tensor(begin, stop)
            elif field == NODE:
                self._node(begin, stop, depth)

    def _node(self, start: int, end: int, depth: int) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        kind, held = "", None
        for field, begin, stop in self.fields(start, end):
            if field in (1, 2):
                (inputs if field == 1 else outputs).append(self.text(begin, stop))
            elif field == 4:
                kind = self.text(begin, stop)
            elif field == ATTRIBUTE:
                held = self._attribute(begin, stop, depth) or held
        if kind == "Constant" and held and outputs:
            self._tensor(*held, outputs[0])
        if kind in VIEWS and inputs and outputs:
            self.views[outputs[0]] = self.views.get(inputs[0], inputs[0])
        elif kind == "Gather" and inputs:
            self.tables.add(self.views.get(inputs[0], inputs[0]))
        elif kind in PRODUCTS and len(inputs) > 1:
            self.matrices.add(self.views.get(inputs[1], inputs[1]))

    def _attribute(self, start: int, end: int, depth: int) -> tuple[int, int] | None:
        """Read the graphs of an attribute; return where its tensor lies."""
        held = None
        for inner, first, last in self.fields(start, end):
            if inner in SUBGRAPHS:
                self.graph(first, last, depth + 1)
            elif inner == TENSOR:
                held = (first, last)
        return held

    def _tensor(self, start: int, end: int, given: str = "") -> None:
        """Read an initialiser, or what a node gives: its sizes, and where its data lies; of packed numbers nothing."""
        dims: list[int] = []
        kind, name, data, outside = 0, "", None, {}
        for field, begin, stop in self.fields(start, end):
            if field == 1:
                dims += [begin] if begin == stop else self._packed(begin, stop)
                if len(dims) > MOST_DIMS:
                    self.refuse(f"a tensor has more than {MOST_DIMS} dimensions")
            elif field == 2:
                kind = begin
            elif field == 8:
                name = self.text(begin, stop)
            elif field == 9:
                data = (begin, stop)
            elif field == 13:
                pair = {key: self.text(first, last) for key, first, last in self.fields(begin, stop)}
                outside[pair.get(1, "")] = pair.get(2, "")
        self._place(given or name, kind, dims, data, outside)

    def _packed(self, start: int, end: int) -> list[int]:
        """Return packed numbers, of which a shape has few."""
        found: list[int] = []
        while start < end and len(found) <= MOST_DIMS:
            value, start = self._varint(start, end)
            found.append(value)
        return found

    def _place(
        self, name: str, kind: int, dims: list[int], data: tuple[int, int] | None, outside: dict[str, str]
    ) -> None:
        """Keep an initialiser whose data has a place, in the file or in one beside it."""
        word, size = TYPES.get(kind, ("", 0))
        nbytes = size
        for dim in dims:
            nbytes *= dim
        place, offset = outside.get("location"), outside.get("offset") or "0"
        if place:
            data = (int(offset), int(offset) + nbytes) if offset.isdecimal() and len(offset) < 20 else None
        if word and data is not None and data[1] - data[0] == nbytes:
            self.tensors[name] = (place, {"dtype": word, "shape": dims, "data_offsets": list(data)})
        elif len(dims) == 2:
            self.placeless.add(name)
