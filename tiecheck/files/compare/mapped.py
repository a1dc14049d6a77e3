"""Do several members hold the same bytes? Told without a copy where that is safe, and by reading elsewhere.

To hold pages of the system's cache against each other where they lie takes half the time of copying them out. A file
that is truncated under a map kills the process, though (SIGBUS). So only files on a local disk are mapped, while a
lease keeps everybody from opening them for writing or truncating them, and only stretches that are in memory: the
system breaks a lease no sooner than 45 seconds after it asked for it back, and a stretch takes milliseconds.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiecheck.files.compare.chunks import Piece
    from tiecheck.files.compare.equality import Span

MAPPED_FROM = 32 * 1024 * 1024
"""Bytes of a member from which the import of ctypes pays."""

WINDOW = 24 * 1024 * 1024
"""Bytes that are mapped at once, of all members together."""

PROBES = 4
"""Bytes of each window that are asked for first: what is not in memory is read faster than mapped."""

_POPULATE_READ = 22
"""`MADV_POPULATE_READ` (Linux 5.14): have the pages mapped now, and an error told where touching one would kill."""


class Alike:
    """Whether all members hold the same bytes in a piece; asked in the order of the file."""

    def __init__(self, spans: Sequence[Span], *, mapped: bool) -> None:
        """Hold some members against each other.

        Args:
            spans: The members, two or more.
            mapped: Whether their files are leased, so that they may be mapped.
        """
        self._spans = spans
        self._windows = _windows(spans) if mapped else None
        self._buffers: list[bytearray] = []
        self._same = 0  # all members agree up to here, from the beginning of the last window on
        self._looked = 0

    def __call__(self, piece: Piece) -> bool:
        """Whether they agree in this piece.

        Raises:
            EOFError: A file ends before it.
            OSError: It cannot be read.
        """
        end = piece.offset + piece.nbytes
        if self._windows is not None and piece.offset >= self._looked:
            self._looked = piece.offset + self._windows.length
            self._same = self._windows.alike(piece.offset)
        return end <= self._same or self._read(piece)

    def _read(self, piece: Piece) -> bool:
        """The same by reading, into memory that is used again."""
        if not self._buffers or len(self._buffers[0]) != piece.nbytes:
            self._buffers = [bytearray(piece.nbytes) for _ in range(2)]
        first, other = self._buffers
        self._spans[0].fill(piece.offset, first)
        for span in self._spans[1:]:
            span.fill(piece.offset, other)
            if first != other:
                return False
        return True


def _windows(spans: Sequence[Span]) -> _Windows | None:
    """The means to map; None where Python was built without them."""
    try:
        return _Windows(spans)
    except (ImportError, OSError, AttributeError):
        return None


class _Windows:
    """The same stretch of each member, mapped for as long as it is looked at."""

    def __init__(self, spans: Sequence[Span]) -> None:
        import ctypes

        self.length = WINDOW // len(spans)
        self._spans = spans
        self._libc: Any = ctypes.CDLL(None)
        self._libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

    def alike(self, offset: int) -> int:
        """Up to where all members are known to agree from an offset on: the offset itself where that was not told."""
        count = min(self.length, self._spans[0].nbytes - offset)
        if not all(_held(span.fd) for span in self._spans):
            for span in self._spans:  # whoever waits need not wait until all is read
                _give_back(span.fd)
            return offset
        if not all(span.in_memory(offset, count * i // PROBES) for span in self._spans for i in range(1, PROBES + 1)):
            return offset
        maps: list[mmap.mmap] = []
        try:
            for span in self._spans:
                start = span.start + offset
                lead = start % mmap.ALLOCATIONGRANULARITY
                # Private and writable, though nothing is written: only of such a map does ctypes tell the address.
                maps.append(
                    mmap.mmap(
                        span.fd, lead + count, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start - lead
                    )
                )
            return offset + count if self._agree(maps, count) else offset
        except (OSError, ValueError):  # no more memory to map, or the file is shorter now: reading tells
            return offset
        finally:
            for mapped in maps:
                mapped.close()

    def _agree(self, maps: Sequence[mmap.mmap], count: int) -> bool:
        """Whether the last so many bytes of some maps are alike."""
        import ctypes

        places = []
        for mapped in maps:
            byte = ctypes.c_char.from_buffer(mapped)
            place = ctypes.addressof(byte)
            del byte  # else the map could not be closed
            mapped.madvise(_POPULATE_READ)
            places.append(place + len(mapped) - count)
        return all(self._libc.memcmp(places[0], place, count) == 0 for place in places[1:])


@contextmanager
def leased(fds: Sequence[int]) -> Iterator[bool]:
    """Keep everybody from changing some files for as long as the block takes; whether that could be had.

    A lease is given to the owner of a file on a local disk (Linux, `F_SETLEASE`), while nobody has it open for writing.
    Who opens it for writing, or truncates it, then waits until the lease is given back; we are sent a signal,
    which is one that does nothing by default.
    """
    held: list[int] = []
    try:
        yield all(_lease(fd, held.append) for fd in fds)
    finally:
        for fd in held:
            _give_back(fd)


def _lease(fd: int, note: Callable[[int], None]) -> bool:
    if sys.platform != "linux" or not os.major(os.fstat(fd).st_dev):  # a network's file changes without this system
        return False
    import fcntl
    import signal

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    note(fd)
    return True


def _held(fd: int) -> bool:
    """Whether nobody waits for a lease to be given back."""
    if sys.platform != "linux":
        return False
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def _give_back(fd: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
