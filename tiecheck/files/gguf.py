"""Headers of GGUF files, as ggml reads them (`gguf_init_from_file_impl`, llama.cpp 0c1e57098). No tensor is read.

What ggml refuses is refused: another magic or version, a name twice, more than four dimensions, rows that are no whole
blocks, tensors that do not lie one after the other, or beyond the end of the file.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Any, NoReturn

from tiecheck.errors import TargetError
from tiecheck.files.limits import READ, SHARDS, VALUES, target_account
from tiecheck.files.local import open_regular, path_inside, refuse_pointer
from tiecheck.records.artefacts import Gguf
from tiecheck.records.stored import Checkpoint, Shard

PART = r"(.+)-(\d{5})-of-(\d{5})\.gguf"
"""Name of one part of a model that llama.cpp split."""

TYPES = (
    "0:F32:1:4 1:F16:1:2 2:Q4_0:32:18 3:Q4_1:32:20 6:Q5_0:32:22 7:Q5_1:32:24 8:Q8_0:32:34 9:Q8_1:32:40 10:Q2_K:256:84 "
    "11:Q3_K:256:110 12:Q4_K:256:144 13:Q5_K:256:176 14:Q6_K:256:210 15:Q8_K:256:292 16:IQ2_XXS:256:66 "
    "17:IQ2_XS:256:74 18:IQ3_XXS:256:98 19:IQ1_S:256:50 20:IQ4_NL:32:18 21:IQ3_S:256:110 22:IQ2_S:256:82 "
    "23:IQ4_XS:256:136 24:I8:1:1 25:I16:1:2 26:I32:1:4 27:I64:1:8 28:F64:1:8 "
    "29:IQ1_M:256:56 30:BF16:1:2 34:TQ1_0:256:54 35:TQ2_0:256:66 "
    "39:MXFP4:32:17 40:NVFP4:64:36 41:Q1_0:128:18 42:Q2_0:64:18"
)
"""ggml's types: number, name, elements of a block and its bytes (`GGML_QUANT_SIZES` of gguf 0.19, `ggml-common.h`)."""

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Numbers of the scalar types of a value -> struct's letter; 8 is a text and 9 an array."""

CHUNK = 1 << 20
LONGEST = 1 << 16
"""Bytes read at a time, and bytes of a key or text that is kept."""


def read_gguf(path: str) -> Gguf:
    """Return the header of a GGUF file; of one part of a split model those of all parts.

    Raises:
        TargetError: A file is no sound GGUF file, or a part is not there.
    """
    folder, name = os.path.split(os.path.abspath(path))
    match = re.fullmatch(PART, name)
    names = [name]
    if match and 1 < int(match[3]) <= SHARDS:
        names = [f"{match[1]}-{n + 1:05d}-of-{match[3]}.gguf" for n in range(int(match[3]))]
        lost = next((other for other in names if not os.path.exists(os.path.join(folder, other))), None)
        if lost is not None:
            raise TargetError(f"{path} is one part of a split model, and {lost} is not there", path)
    values: dict[str, Any] = {}
    shards: list[Shard] = []
    for part in names:
        found, shard = _read_file(path_inside(folder, part), part)
        twice = next((n for n in shard.entries if any(n in other.entries for other in shards)), None)
        if twice is not None:
            raise TargetError(f"{path} is broken: {twice} stands in two of its parts", path)
        values |= found
        shards.append(shard)
    architecture, kind = values.get("general.architecture"), values.get("general.type", "model")
    if not isinstance(architecture, str) or not isinstance(kind, str):
        raise TargetError(f"{path} names no architecture (general.architecture), and is no model", path)
    return Gguf(architecture, kind, Checkpoint("gguf", folder, tuple(shards), None, {}, (), {}))


def _read_file(path: str, name: str) -> tuple[dict[str, Any], Shard]:
    """Return the values that are kept of one file's header, and its tensors."""
    with os.fdopen(open_regular(path, path), "rb", buffering=0) as file:
        cursor = _Cursor(file, path)
        magic = cursor.take(4)
        if magic != b"GGUF":
            refuse_pointer(magic + cursor.take(min(cursor.left, 60)), path)
            cursor.refuse("it does not begin as a GGUF file")
        version = cursor.number("I")
        if version not in (2, 3):
            cursor.refuse(f"its version is {version:,}, and 2 and 3 are read, little-endian")
        tensors, pairs = cursor.number("q"), cursor.number("q")
        if not (0 <= tensors <= cursor.left // 24 and 0 <= pairs <= cursor.left // 12):  # the least that each takes
            cursor.refuse(f"it counts {tensors:,} tensors and {pairs:,} values, more than it can hold")
        target_account().take(VALUES, 8 * (tensors + pairs), path)
        values = {}
        for _ in range(pairs):
            key = cursor.text()
            if not key or key in values:
                cursor.refuse(f"the key {key!r} is empty, too long or there twice")
            values[key] = cursor.value(cursor.number("I"))
        entries = _read_tensors(cursor, tensors)
        align = values.get("general.alignment", 32)
        if type(align) is not int or align <= 0 or align & (align - 1):
            cursor.refuse(f"its alignment is {align!r}, no power of two")
        start, end = -(-cursor.at // align) * align, 0
        for tensor, entry in entries.items():
            begin, stop = entry["data_offsets"]
            if begin != -(-end // align) * align:
                cursor.refuse(f"{tensor} does not begin where the tensor before it ends")
            end = stop
        if entries and start + end > cursor.size:
            cursor.refuse(f"it has {cursor.size:,} bytes, and its tensors end at {start + end:,}")
    return values, Shard(name, start, entries)


def _read_tensors(cursor: _Cursor, count: int) -> dict[str, Any]:
    """Return the entries of a file's tensors, as a safetensors header has them."""
    types = {int(n): (name, int(block), int(size)) for n, name, block, size in (t.split(":") for t in TYPES.split(" "))}
    entries: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.text()
        if not name or name in entries or len(name.encode()) >= 64:
            cursor.refuse(f"the tensor name {(name or '')[:80]!r} is empty, too long or there twice")
        dims = cursor.number("I")
        if dims > 4:
            cursor.refuse(f"{name} has {dims:,} dimensions")
        shape = [cursor.number("q") for _ in range(dims)]
        kind, begin = cursor.number("I"), cursor.number("Q")
        if kind not in types:
            cursor.refuse(f"{name} has the type {kind:,}, which is not known")
        word, block, size = types[kind]
        elements = 1
        for length in shape:
            elements *= length
        if any(length < 0 for length in shape) or elements >= 1 << 63 or (shape or [1])[0] % block:
            cursor.refuse(f"{name} has the shape {shape}, which {word} does not have")
        entries[name] = {"dtype": word, "shape": shape[::-1], "data_offsets": [begin, begin + elements // block * size]}
    target_account().check_time()
    return entries


class _Cursor:
    """A place in a file, read ahead by the chunk."""

    def __init__(self, file: Any, path: str) -> None:
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        """Bytes from the beginning."""
        self._buffer = b""
        self._from = 0

    @property
    def left(self) -> int:
        """Bytes up to the end."""
        return self.size - self.at

    def refuse(self, why: str) -> NoReturn:
        """Refuse the file.

        Raises:
            TargetError: Always.
        """
        raise TargetError(f"{self.path} is broken, or no GGUF file: {why}", self.path)

    def take(self, count: int) -> bytes:
        """Return the next bytes, and go behind them."""
        if count > self.size - self.at:
            self.refuse("it ends within its header")
        begin = self.at - self._from
        if begin + count > len(self._buffer):
            target_account().take(READ, max(count, CHUNK), self.path)
            self.file.seek(self.at)
            try:
                self._buffer, self._from, begin = self.file.read(max(count, CHUNK)), self.at, 0
            except OSError as error:
                raise TargetError(f"{self.path} cannot be read: {error.strerror or error}", self.path) from error
            if len(self._buffer) < count:
                self.refuse("it ends within its header")
        self.at += count
        return self._buffer[begin : begin + count]

    def number(self, letter: str) -> Any:
        """Return the next number."""
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def text(self) -> str | None:
        """Return the next text; None for one that is too long to be kept."""
        length = self.number("Q")
        if length > LONGEST:
            self._skip(length)
            return None
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.refuse("a text in its header is not UTF-8")

    def value(self, kind: int) -> Any:
        """Return the next value; None for an array, which is passed over."""
        if kind == 8:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        inner, count = (self.number("I"), self.number("Q")) if kind == 9 else (9, 0)
        if inner in SCALARS:
            self._skip(count * struct.calcsize(f"<{SCALARS[inner]}"))
        elif inner == 8:
            target_account().take(VALUES, count, self.path)
            for _ in range(count):
                self._skip(int.from_bytes(self.take(8), "little"))
        else:
            self.refuse(f"a value has the type {kind}, or an array of {inner}")
        return None

    def _skip(self, count: int) -> None:
        if count > self.size - self.at:
            self.refuse("it ends within its header")
        self.at += count
