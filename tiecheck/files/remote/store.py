"""Remote stores: what each can do, what it moved, and the comparison of tensors by ranges (`--values always`).

A store lists if it can, and gives small files whole, the beginnings of files, and byte ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from tiecheck.errors import TargetError
from tiecheck.files.compare.equality import BLOCK, Constancy
from tiecheck.files.limits import target_account
from tiecheck.records.report import Traffic
from tiecheck.records.stored import Comparison, StoredTensor
from tiecheck.records.words import Unknown

GUESS = 64 * 1024
"""Bytes that are asked for first of a weights file: the headers of most fit in, so that one request does."""

SAMPLES = 8
SAMPLE = 4096
"""Blocks that are looked at first, and their bytes: a head that was trained differs in nearly all of them."""

RANGE = 1 << 20
"""Bytes of one range after that."""

WINDOW = 16 << 20
"""Bytes that are held at once, over all members."""


class Start(NamedTuple):
    """The beginning of a file."""

    raw: bytes
    """Its first bytes, as many as were asked for or as the file has."""
    size: int
    """Bytes of the whole file."""


class ByteRange(NamedTuple):
    """Some bytes of a file."""

    name: str
    """The file, relative to the store's root."""
    offset: int
    """The first byte."""
    length: int
    """Their number, one at least."""


class Store(Protocol):
    """A directory somewhere else. Every method raises TargetError with one sentence where the store says no."""

    @property
    def address(self) -> str:
        """The directory's address for messages; no secret is in it."""
        ...

    def names(self) -> Collection[str] | None:
        """Return the names of the files in it; None where the store cannot list."""
        ...

    def small(self, name: str, limit: int) -> bytes | None:
        """Return a whole file of `limit` bytes at most; None where there is no such file."""
        ...

    def starts(self, wanted: Sequence[tuple[str, int]]) -> list[Start | None]:
        """Return the first so many bytes of some files, fetched together; None for a file that is not there."""
        ...

    def spans(self, wanted: Sequence[ByteRange]) -> list[bytes]:
        """Byte ranges, fetched together, each exactly as long as asked for."""
        ...

    def traffic(self) -> Traffic:
        """Return the bytes and requests so far."""
        ...


class FoundModel(NamedTuple):
    """Where a model really is."""

    store: Store | None
    """The store that was asked, and counts what that moved; None where the cache told all."""
    file: str
    """The one file that is wanted; empty for the directory."""
    local: str = ""
    """The path in the hub's cache that has all of it; else empty."""


class TrafficMeter:
    """Counts what a store moved; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self._requests = 0

    def add(self, count: int, requests: int = 1) -> None:
        """Count the bytes of a body, and the requests it took."""
        with self._lock:
            self._bytes += count
            self._requests += requests

    def read(self) -> Traffic:
        """Return the bytes and requests so far."""
        return Traffic(self._bytes, self._requests)


def target_meter() -> TrafficMeter:
    """Return a meter for the target that is being read, which is told of one that cannot be read too."""
    meter = TrafficMeter()
    target_account().traffic.append(meter.read)
    return meter


def path_of(store: Store, name: str) -> str:
    """Return the address of a file of a store, for messages."""
    return f"{store.address.rstrip('/')}/{name}"


class RemoteComparer:
    """The bytes of a remote checkpoint, read only where somebody asks for them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def compare(self, tensors: Sequence[StoredTensor]) -> Comparison | Unknown:
        """Hold the bytes of some stored tensors, alike in dtype and shape, against each other; or say why that failed.

        It ends at the first difference: rows are not counted.
        """
        try:
            return self._compare(tensors)
        except TargetError as error:
            return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")

    def _compare(self, tensors: Sequence[StoredTensor]) -> Comparison:
        shape, nbytes = tensors[0].shape, tensors[0].nbytes
        rows = shape[0] if shape else 1
        different = Comparison(False, rows, None, 0, None, None, False)
        if nbytes > RANGE:
            last = nbytes - SAMPLE
            samples = [(last * i // (SAMPLES - 1), SAMPLE) for i in range(SAMPLES)]
            if not all(self._alike(tensors, samples)):
                return different
        constant = Constancy(nbytes, shape)
        together = max(1, WINDOW // (RANGE * len(tensors)))
        for begin in range(0, nbytes, RANGE * together):
            starts = range(begin, min(nbytes, begin + RANGE * together), RANGE)
            pieces = [(start, min(RANGE, nbytes - start)) for start in starts]
            if not all(self._alike(tensors, pieces, constant)):
                return different
        return Comparison(True, rows, 0, rows, None, None, constant.holds)

    def _alike(
        self, tensors: Sequence[StoredTensor], pieces: Sequence[tuple[int, int]], constant: Constancy | None = None
    ) -> list[bool]:
        """Of each piece, offset and length, whether all members agree; fetched together."""
        spans = [ByteRange(t.file, (t.start or 0) + offset, count) for offset, count in pieces for t in tensors]
        raw = self._store.spans(spans)
        members = len(tensors)
        alike = []
        for i, (offset, count) in enumerate(pieces):
            blocks = raw[i * members : (i + 1) * members]
            alike.append(all(block == blocks[0] for block in blocks[1:]))
            if constant is not None and constant.holds:
                for at in range(0, count, BLOCK):
                    constant.take(blocks[0][at : at + BLOCK], offset + at)
        return alike
