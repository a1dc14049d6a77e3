"""What every remote store can do: list if it can, give small files whole, the beginnings of files, and byte ranges."""

import threading
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from tiecheck.records.report import Traffic

GUESS = 64 * 1024
"""Bytes that are asked for first of a weights file: the headers of most fit in, so that one request does."""


class Start(NamedTuple):
    """The beginning of a file."""

    raw: bytes
    """Its first bytes, as many as were asked for or as the file has."""
    size: int
    """Bytes of the whole file."""


class Span(NamedTuple):
    """Some bytes of a file."""

    name: str
    """The file, relative to the store's root."""
    offset: int
    """The first byte."""
    length: int
    """How many, one at least."""


class Store(Protocol):
    """A directory somewhere else. Every method raises TargetError with one sentence where the store says no."""

    @property
    def address(self) -> str:
        """What messages call the directory; no secret is in it."""
        ...

    def names(self) -> Collection[str] | None:
        """The names of the files in it; None where the store cannot list."""
        ...

    def small(self, name: str, limit: int) -> bytes | None:
        """A whole file of `limit` bytes at most; None where there is no such file."""
        ...

    def starts(self, wanted: Sequence[tuple[str, int]]) -> list[Start | None]:
        """The first so many bytes of some files, fetched together; None for a file that is not there."""
        ...

    def spans(self, wanted: Sequence[Span]) -> list[bytes]:
        """Byte ranges, fetched together, each exactly as long as asked for."""
        ...

    def traffic(self) -> Traffic:
        """What was moved so far."""
        ...


class Found(NamedTuple):
    """Where a model really is."""

    store: Store | None
    """What was asked, and counts what that moved; None where the cache told all."""
    file: str
    """The one file that is wanted; empty for the directory."""
    local: str = ""
    """The path in the hub's cache that has all of it; else empty."""


class Meter:
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
        """What was counted so far."""
        return Traffic(self._bytes, self._requests)


def path_of(store: Store, name: str) -> str:
    """What messages call a file of a store."""
    return f"{store.address.rstrip('/')}/{name}"
