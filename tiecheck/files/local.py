"""Files of a target that may be read, and JSON read so that bad input ends in one clear sentence."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tiecheck.errors import TargetError
from tiecheck.files.limits import JSON_BYTES, READ, take_values, target_account

if TYPE_CHECKING:
    from tiecheck.records.stored import StoredTensor

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

LFS_POINTER = b"version https://git-lfs"
"""First bytes of the small text that stands for a file which Git LFS has not fetched."""


class InsidePath(str):
    """The path of a file that was found to lie in its directory: `open_sized` holds what it opens against that."""

    __slots__ = ("real",)
    real: str
    """Its real path, where it goes by a link or another folder; else it may be no link by then."""


def path_inside(root: str, name: str) -> str:
    """Return the full path of a file of a target directory, refused where it leads outside.

    The Hugging Face hub cache keeps `snapshots/<revision>/model.safetensors` as a link to `blobs/<hash>` two levels up:
    such links are the cache's own and are followed. What is opened by that path is the file that was looked at here, or
    none: a link that somebody swaps in meanwhile is not followed.
    """
    path = InsidePath(os.path.join(root, name))
    if name.endswith((".json", ".safetensors")) and not (os.sep in name or "\0" in name or os.path.islink(path)):
        return path
    plain = os.path.normpath(name)
    if "\0" in name:
        raise TargetError(f"{name!r} is no file's name, and is not read", root)
    if os.path.isabs(name) or plain == os.pardir or plain.startswith(os.pardir + os.sep):
        raise TargetError(f"{name!r} lies outside the target directory, and is not read", path)
    if os.path.basename(plain) == plain == name and not os.path.islink(path):
        return path
    real = os.path.realpath(path)
    base = os.path.realpath(root)
    if real.startswith(base.rstrip(os.sep) + os.sep) or real == base or _is_hub_cache_link(base, real):
        path.real = real
        return path
    raise TargetError(
        f"{path} is a link to {real}, outside the target directory, and is not read; "
        "name that file or its folder instead",
        path,
    )


def _is_hub_cache_link(base: str, real: str) -> bool:
    """Tell whether a link goes from `<repo>/snapshots/<revision>` to `<repo>/blobs`."""
    head, revision_parent, _ = base.rpartition(f"{os.sep}snapshots{os.sep}")
    return bool(revision_parent) and os.path.dirname(real) == os.path.join(head, "blobs")


def open_regular(path: str, label: str) -> int:
    """Return a descriptor of a regular file, opened so that a pipe or a device cannot keep us waiting."""
    return open_sized(path, label)[0]


def open_sized(path: str, label: str) -> tuple[int, int]:
    """Return the same, and the bytes of the file."""
    inside = type(path) is InsidePath
    real: str | None = getattr(path, "real", None) if inside else None
    try:
        descriptor = os.open(real or path, _FLAGS | _NO_LINK if inside else _FLAGS)
    except (OSError, ValueError) as error:
        if inside and real is None and getattr(error, "errno", None) == errno.ELOOP:
            raise TargetError(f"{label} became a link while it was read, and is not followed", path) from error
        if os.path.isdir(path):  # Windows cannot open one
            raise TargetError(f"{label} is a folder, not a file", path) from error
        raise TargetError(f"{label} cannot be read: {getattr(error, 'strerror', None) or error}", path) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise TargetError(f"{label} is a folder, not a file", path)
            raise TargetError(f"{label} is a pipe or a device, not a regular file", path)
        if real is not None and _opened_path(descriptor, real) != real:
            raise TargetError(f"{label} changed while it was read", path)
        target_account().note_file(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def _opened_path(descriptor: int, known: str) -> str:
    """Return the real path of what was opened, whatever its folders are by now; what was known, where none tells."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return known


def refuse_pointer(first: bytes, path: str) -> None:
    """Refuse the pointer that a clone without Git LFS leaves in place of the weights, by its first bytes."""
    if first.startswith(LFS_POINTER):
        raise TargetError(f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`", path)


def read_bytes(path: str, label: str, limit: int = JSON_BYTES) -> bytes:
    """Return a whole file that is expected to be small."""
    descriptor, size = open_sized(path, label)
    try:
        if size > limit:
            raise TargetError(f"{label} has {size:,} bytes, more than the {limit:,} that are read", path)
        target_account().take(READ, size, label)
        raw = read_from(descriptor, size)
    except OSError as error:
        raise TargetError(f"{label} cannot be read: {error.strerror or error}", path) from error
    finally:
        os.close(descriptor)
    refuse_pointer(raw, path)
    return raw


def read_from(descriptor: int, count: int) -> bytes:
    """Return the next bytes of a file, fewer only where it ends; a file object takes as long as a small file does.

    It raises the `OSError` of `os.read`.
    """
    raw = os.read(descriptor, count)
    while 0 < len(raw) < count and (more := os.read(descriptor, count - len(raw))):
        raw += more
    return raw


class TensorFiles:
    """The safetensors files of a checkpoint that were opened for some small reads, each once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._held = target_account().held or {}
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, tensor: StoredTensor, offset: int, size: int) -> bytes:
        """Return some bytes of a tensor, from an offset within it.

        Raises:
            TargetError: The file is not there any more, or is no regular file now.
            EOFError: The file ends before them.
            OSError: They cannot be read.
        """
        descriptor = self._held.get(f"{self._root}{os.sep}{tensor.file}") or self._open.get(tensor.file)
        if descriptor is None:
            path = path_inside(self._root, tensor.file)
            descriptor = self._open[tensor.file] = open_regular(path, path)
        data = os.pread(descriptor, size, (tensor.start or 0) + offset)
        if len(data) < size:
            raise EOFError(f"{tensor.file} ends within {tensor.name}")
        return data


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the garbage collector while much is made that stays: it would go through all of it several times."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def parse_json(
    raw: bytes,
    label: str,
    path: str,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    *,
    strict: bool = False,
) -> Any:
    """JSON in UTF-8, parsed with the garbage collector paused: it costs a good part of a large header.

    As strict as the loaders: `json.loads` would guess UTF-16 and UTF-32 from bytes, which none of them reads. `pairs`
    makes an object of its keys and values, as they stand; a dict by default, where the last one wins. `strict` refuses
    `NaN` and `Infinity`, which JSON does not have, and reals that are out of range.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise TargetError(f"{label} begins with a byte order mark, which loaders refuse; save it without one", path)
    take_values(raw, label)
    constant, real = (_refuse, _finite) if strict else (None, None)
    try:
        with paused_collector():
            data = json.loads(raw.decode("utf-8"), parse_constant=constant, parse_float=real, object_pairs_hook=pairs)
            if b"\\ud" in raw or b"\\uD" in raw:
                _refuse_half_characters(data, label, path)
    except UnicodeDecodeError as error:
        raise TargetError(f"{label} is not UTF-8 text: byte {error.start} cannot be decoded", path) from error
    except json.JSONDecodeError as error:
        raise TargetError(
            f"{label} is not valid JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}",
            path,
        ) from error
    except RecursionError as error:
        raise TargetError(f"{label} is nested too deeply to be read", path) from error
    except ValueError as error:  # a number of more than 4,300 digits (Python 3.11), or a constant
        raise TargetError(f"{label} holds a number that cannot be read: {error}", path) from error
    return data


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _finite(word: str) -> float:
    """Return a number that a reader of JSON in another language can hold."""
    value = float(word)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{word[:40]} is out of range")
    return value


def _refuse_half_characters(data: Any, label: str, path: str) -> None:
    r"""Refuse text with half of a surrogate pair (a lone `\ud800`): it cannot be encoded, so no name can hold it."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TargetError(f"{label} holds half of a surrogate pair, which is no character", path) from error


class Window(io.RawIOBase):
    """A stretch of a file as if it were a file of its own."""

    def __init__(self, fd: int, start: int, length: int) -> None:
        self._fd, self._start, self._length, self._position = fd, start, length, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as files do."""
        base = {0: 0, 1: self._position, 2: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on from the position, to the window's end at most."""
        count = max(0, min(len(buffer), self._length - self._position))
        data = os.pread(self._fd, count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
