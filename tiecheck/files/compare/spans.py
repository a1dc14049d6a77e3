"""Bytes of stored tensors by plain `pread`, in bounded memory, be they one after another or strided."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.limits import COMPARED, target_account
from tiecheck.files.local import open_regular, path_inside
from tiecheck.records.stored import Checkpoint, StoredTensor

STRIP = 4 * 1024 * 1024
"""Bytes of a strided tensor that are put together at once, and that one read of them spans at most."""

_CELLS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Span:
    """One member's bytes in an open file."""

    def __init__(self, fd: int, start: int, nbytes: int) -> None:
        """Note where the bytes are; nothing is read yet."""
        self.nbytes = nbytes
        self._fd = fd
        self._start = start
        self._last = b""
        self._account = target_account()
        status = os.fstat(fd)
        self._size = status.st_size
        self.sparse = type(self) is Span and getattr(status, "st_blocks", sys.maxsize) * 512 < status.st_size
        """True where the file has holes, which need not be read."""

    def data_from(self, offset: int) -> int:
        """Return the first offset from one on with anything but zeros; `EOFError` where the file ends before."""
        if not self.sparse:
            return offset
        if self._size < self._start + self.nbytes:
            raise EOFError("the file ends too early; was it changed meanwhile?")
        try:
            return min(self.nbytes, os.lseek(self._fd, self._start + offset, os.SEEK_DATA) - self._start)
        except OSError as error:  # no data any more; or a file system that does not know
            return self.nbytes if error.errno == errno.ENXIO else offset

    @property
    def place(self) -> tuple[object, ...]:
        """Device, file and first byte: what members have in common that are the same bytes on the disk."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino, self._start

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes, counted from the member's beginning; `EOFError` where the file ends before them."""
        try:
            self._account.take(COMPARED, count, "a tensor")
        except TargetError as error:
            raise OSError(
                f"more than {COMPARED.most >> 30} GiB of the target would be compared; --values always does so"
            ) from error
        data = os.pread(self._fd, count, self._start + offset)
        if len(data) != count:
            raise EOFError("the file ends too early; was it changed meanwhile?")
        self._last = data  # kept until the next is there: freed before, it goes back to the system, five times as slow
        return data


class StridedSpan(Span):
    """The elements of a view that do not lie one after another, as if they did; or whose signs are turned."""

    def __init__(self, fd: int, start: int, tensor: StoredTensor, entry: Mapping[str, Any]) -> None:
        """Note where the elements are: first byte in an open file, the entry's `stride` (none: dense), `negated`."""
        super().__init__(fd, start, tensor.nbytes)
        size = tensor.nbytes // prod(tensor.shape)
        shape, stride = tensor.shape, tuple(entry.get("stride", ())) or _row_major(tensor.shape)
        self._mask = _signs(tensor.dtype, size, entry.get("negated", ()))
        if size == 16:  # two cells an element
            size, shape, stride = 8, (*shape, 2), (*(2 * step for step in stride), 1)
        self._size, self._shape, self._stride = size, shape or (1,), stride or (1,)
        # Whole inner dimensions as far as they fit, and some indices of the next one out.
        self._outer = len(self._shape) - 1
        while self._outer and prod(self._shape[self._outer :]) * size <= STRIP:
            self._outer -= 1
        inner = prod(self._shape[self._outer + 1 :])
        self._rows = max(1, STRIP // (inner * size))
        self._chunk = self._rows * inner * size
        self._per_outer = self._shape[self._outer] * inner * size
        self._held = (-1, b"")

    @property
    def place(self) -> tuple[object, ...]:
        """The same, with what tells two views of one memory apart."""
        return *super().place, self._shape, self._stride, self._mask

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes, as if the elements lay one after another."""
        parts = []
        while count:
            index, within = divmod(offset, self._per_outer)
            first = within - within % self._chunk
            begin = index * self._per_outer + first
            if self._held[0] != begin:
                self._held = -1, b""
                self._held = begin, self._gather(index, first // (self._per_outer // self._shape[self._outer]))
            part = self._held[1][offset - begin : offset - begin + count]
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return b"".join(parts)

    def _gather(self, index: int, row: int) -> bytes:
        """Put a chunk together: at an index over the outer dimensions, from a row of the next one on."""
        base = 0
        for size, step in zip(reversed(self._shape[: self._outer]), reversed(self._stride[: self._outer]), strict=True):
            index, at = divmod(index, size)
            base += at * step
        base += row * self._stride[self._outer]
        sizes = (min(self._rows, self._shape[self._outer] - row), *self._shape[self._outer + 1 :])
        steps = self._stride[self._outer :]
        cells = _row_major(sizes)
        run = min(range(len(sizes)), key=lambda d: (sizes[d] == 1 or steps[d] == 0, steps[d], -d))  # lies closest
        out = bytearray(prod(sizes) * self._size)
        view = memoryview(out).cast(_CELLS[self._size])  # type: ignore[call-overload]
        most = max(1, STRIP // (steps[run] * self._size)) if steps[run] else 1
        others = [range(n) if d != run else range(0, n, most) for d, n in enumerate(sizes)]
        for cell in product(*others):
            count = min(most, sizes[run] - cell[run])
            first = base + sum(i * step for i, step in zip(cell, steps, strict=True))
            to = sum(i * step for i, step in zip(cell, cells, strict=True))
            raw = super().read(first * self._size, ((count - 1) * steps[run] + 1) * self._size)
            found = memoryview(raw).cast(_CELLS[self._size])[:: steps[run] or 1]  # type: ignore[call-overload]
            view[to : to + (count - 1) * cells[run] + 1 : cells[run]] = found
        return _turned(out, self._mask) if self._mask else bytes(out)


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of elements that lie one after another."""
    return tuple(prod(shape[d + 1 :]) for d in range(len(shape)))


def _signs(dtype: str, size: int, negated: Collection[str]) -> bytes:
    """Return what is added, bit by bit, to an element whose signs are turned; empty where that changes nothing."""
    mask = bytearray(size)
    for place in (size // 2 - 1, size - 1) if dtype.startswith("complex") else (size - 1,):
        turned = ("neg" in negated) != ("conj" in negated and place == size - 1)
        mask[place] = 0x80 if turned else 0
    return bytes(mask) if any(mask) else b""


def _turned(raw: bytearray, mask: bytes) -> bytes:
    whole = int.from_bytes(raw, "little") ^ int.from_bytes(mask * (len(raw) // len(mask)), "little")
    return whole.to_bytes(len(raw), "little")


class OpaqueError(Exception):
    """The bytes of a tensor cannot be looked at one by one; the message says why."""


@contextmanager
def opened_members(checkpoint: Checkpoint, tensors: Sequence[StoredTensor]) -> Iterator[list[Span]]:
    """Give the members of a checkpoint, in files opened for as long as the block takes.

    A tensor of a pickle without bytes of its own raises `OpaqueError`.
    """
    fds: list[int] = []
    try:
        for tensor in tensors:  # each its own, for the system reads ahead by descriptor
            path = path_inside(checkpoint.root, tensor.file)
            fds.append(open_regular(path, path))
        yield [_span(checkpoint, tensor, fd) for tensor, fd in zip(tensors, fds, strict=True)]
    finally:
        for fd in fds:
            os.close(fd)


def _span(checkpoint: Checkpoint, tensor: StoredTensor, fd: int) -> Span:
    if checkpoint.format != "pickle":
        return Span(fd, tensor.start or 0, tensor.nbytes)
    entry = next(shard.entries[tensor.name] for shard in checkpoint.shards if shard.path == tensor.file)
    if entry.get("opaque"):
        raise OpaqueError(f"the bytes of {tensor.name} cannot be compared: it {entry['opaque']}")
    start = entry["data_offsets"][0]
    if tensor.nbytes and ("stride" in entry or "negated" in entry):
        return StridedSpan(fd, start, tensor, entry)
    return Span(fd, start, tensor.nbytes)
