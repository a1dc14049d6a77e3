"""Files of `torch.save`, in the zip form and the older one, read without torch and without running anything.

A pickle is followed by `pickle_names`; the bytes of its tensors are only located, so that two of them can be
compared in bounded memory.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple, cast

from tiecheck.files.local import LFS_POINTER, open_regular
from tiecheck.files.pickle.machine import UnreadablePickleError, read_pickle
from tiecheck.files.pickle.records import ITEMSIZES, Made, PickledTensor, Storage
from tiecheck.records.stored import Comparison
from tiecheck.records.words import Unknown

LIMIT = 64 * 1024 * 1024
"""Bytes of a pickle, and of a zip archive's directory, that are read at most."""

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that begins the form before torch 1.6 (`torch.serialization.MAGIC_NUMBER`)."""


class Stored(NamedTuple):
    """Where the elements of one tensor lie on disk."""

    path: str
    """The file."""
    start: int
    """Byte of the first element in the file."""
    dtype: str
    """Element type."""
    shape: tuple[int, ...]
    """Shape."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * ITEMSIZES[self.dtype]


class TorchFile(NamedTuple):
    """What a file of `torch.save` holds."""

    path: str
    """The file."""
    tree: Any
    """The pickled object, as plain data with `PickledTensor` and `Made` in it."""
    places: Mapping[str, int]
    """Key of a storage -> the byte at which it begins; only those stored as they are."""

    def locate(self, tensor: PickledTensor) -> Stored | None:
        """Where a tensor's elements lie, where they lie one after another."""
        size, begin = ITEMSIZES.get(tensor.dtype), self.places.get(tensor.storage.key)
        if size is None or begin is None or not tensor.contiguous:
            return None
        elements = tensor.storage.numel if tensor.storage.dtype else tensor.storage.numel // size
        if tensor.offset + math.prod(tensor.shape) > elements:
            return None
        return Stored(self.path, begin + tensor.offset * size, tensor.dtype, tensor.shape)


class Window(io.RawIOBase):
    """A stretch of a file as if it were a file of its own, of which no more than some bytes are handed out."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as files do."""
        base = {0: 0, 1: self._position, 2: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on from the position, to the window's end at most."""
        count = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_torch_file(path: str, start: int = 0, length: int | None = None) -> TorchFile | Unknown:
    """What a file of `torch.save` holds, by its pickle alone.

    Args:
        path: The file.
        start: Where in it the saved object begins: a distributed checkpoint puts many into one file.
        length: Its bytes; to the end of the file by default.

    Returns:
        The content, or why it was not read.

    Raises:
        TargetError: The file cannot be opened, or is no regular file.
    """
    name = os.path.basename(path)
    with os.fdopen(open_regular(path, path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        whole = Window(file, start, max(0, size - start) if length is None else length)
        window = cast("IO[bytes]", io.BufferedReader(whole))
        try:
            first = window.read(len(LFS_POINTER))
            window.seek(0)
            if first.startswith(b"PK\x03\x04"):
                return _zipped(path, window, start)
            if first.startswith(b"\x80"):
                return _legacy(path, file, start, size)
        except Exception as error:  # noqa: BLE001  # whatever zipfile makes of a damaged archive, the file is not read
            return Unknown(f"{name} was not read: {str(error) or type(error).__name__}")
    if first.startswith(LFS_POINTER):
        return Unknown(f"{name} is a Git LFS pointer, not the data")
    return Unknown(f"{name} was not read: it is no file of torch.save's")


def _zipped(path: str, window: IO[bytes], start: int) -> TorchFile:
    """The zip form: `<name>/data.pkl` beside one uncompressed entry a storage."""
    if _directory_bytes(window) > LIMIT:
        raise UnreadablePickleError("its zip directory is too large")
    with zipfile.ZipFile(window) as archive:
        pickles = [i for i in archive.infolist() if i.filename.endswith("/data.pkl") or i.filename == "data.pkl"]
        if len(pickles) != 1:
            raise UnreadablePickleError("it is a zip archive, but none of torch.save's")
        if pickles[0].file_size > LIMIT:
            raise UnreadablePickleError(f"its pickle has more than {LIMIT:,} bytes")
        with archive.open(pickles[0]) as pickled:
            tree = read_pickle(io.BytesIO(pickled.read(LIMIT)))
        folder = pickles[0].filename.removesuffix("data.pkl") + "data/"
        places = {}
        for entry in archive.infolist():
            if entry.filename.startswith(folder) and entry.compress_type == zipfile.ZIP_STORED:
                window.seek(entry.header_offset + 26)  # the local header's own lengths of name and extra field
                lengths = window.read(4)
                begin = entry.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
                places[entry.filename.removeprefix(folder)] = start + begin
    return TorchFile(path, tree, places)


def _directory_bytes(window: IO[bytes]) -> int:
    """Bytes of a zip archive's directory, by the records at its end: `zipfile` would read gigabytes of it."""
    end = window.seek(0, 2)
    window.seek(max(0, end - (1 << 16) - 22))
    tail = window.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise UnreadablePickleError("it is a zip archive that was cut off")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size == 0xFFFFFFFF:
        record = tail.rfind(b"PK\x06\x06", 0, at)
        size = int.from_bytes(tail[record + 40 : record + 48], "little") if record >= 0 else 1 << 62
    return size


def _legacy(path: str, file: IO[bytes], start: int, size: int) -> TorchFile:
    """The older form: five pickles one after another, and the storages behind them."""
    window = cast("IO[bytes]", io.BufferedReader(Window(file, start, min(LIMIT, size - start))))
    if read_pickle(window) != MAGIC:
        raise UnreadablePickleError("it is a plain pickle, not one of torch.save's")
    read_pickle(window)  # the protocol's version
    read_pickle(window)  # sizes and byte order of the machine
    tree = read_pickle(window)
    keys = read_pickle(window)
    sizes = {storage.key: storage for storage in _storages(tree)}
    places: dict[str, int] = {}
    position = start + window.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = sizes.get(key) if isinstance(key, str) else None
        if storage is None or storage.dtype is None:
            break  # where the next one begins is not known
        places[storage.key] = position + 8  # behind the count of elements
        position += 8 + storage.numel * ITEMSIZES[storage.dtype]
    return TorchFile(path, tree, places)


def _storages(tree: Any) -> list[Storage]:
    """Every storage that a pickled object mentions, wherever it lies."""
    found: list[Storage] = []
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, PickledTensor):
            found.append(value.storage)
        elif isinstance(value, Storage):
            found.append(value)
        elif isinstance(value, (dict, list, tuple, Made)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Made):
                waiting += [value.args, value.state]
            else:
                waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def compare_stored(members: Sequence[tuple[Stored, ...]], *, exact: bool) -> Comparison | Unknown:
    """Hold tensors against each other whose elements lie in one or more parts, until some part differs.

    Args:
        members: The parts of each tensor, in order.
        exact: Whether to count every row that differs.

    Raises:
        TargetError: A file is not there any more.
    """
    layouts = {tuple((part.shape, part.dtype) for part in parts) for parts in members}
    if len(layouts) != 1 or not members[0]:
        return Unknown("the tensors lie in parts of different sizes or types")
    for parts in zip(*members, strict=True):
        comparison = _compare(parts, exact=exact)
        if isinstance(comparison, Unknown) or not comparison.equal:
            break
    return comparison


def _compare(parts: tuple[Stored, ...], *, exact: bool) -> Comparison | Unknown:
    from tiecheck.files.compare.equality import Span, compare_pieces

    fds: list[int] = []
    try:
        fds += [open_regular(part.path, part.path) for part in parts]
        spans = [Span(fd, part.start, part.nbytes) for fd, part in zip(fds, parts, strict=True)]
        return compare_pieces(
            parts[0].shape,
            parts[0].nbytes,
            lambda piece: [span.read_on(piece.offset, piece.nbytes) for span in spans],
            dtype=parts[0].dtype,
            everywhere=True,
            exact=exact,
        )
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes cannot be read: {error}")
    finally:
        for fd in fds:
            os.close(fd)
