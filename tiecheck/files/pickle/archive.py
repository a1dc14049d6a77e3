"""Files of `torch.save`, in the zip form and the older one, read without torch and without running anything.

The bytes of the tensors are only located, so that two of them can be compared in bounded memory. Everything is read by
`pread`: a file that shrinks meanwhile ends in a sentence, and not in SIGBUS.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, cast

from tiecheck.errors import TargetError
from tiecheck.files.limits import PICKLE_BYTES, READ, ZIP_DIRECTORY_BYTES, target_account
from tiecheck.files.local import LFS_POINTER, Window, open_regular, refuse_pointer
from tiecheck.files.pickle.machine import UnreadablePickleError
from tiecheck.files.pickle.records import ITEMSIZES, Storage, StoragePlace, TorchFile
from tiecheck.files.pickle.unpickling import ForbiddenNameError, read_pickle
from tiecheck.records.words import Unknown

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that begins the form before torch 1.6 (`torch.serialization.MAGIC_NUMBER`)."""

BIG_ENDIAN = "was saved on a big-endian machine, and such files are not read"

FORMATS = 10
"""The newest version of the zip form that torch 2.13 reads (`kMaxSupportedFileFormatVersion`)."""

PROTOCOL = 1001
"""The version of that form (`torch.serialization.PROTOCOL_VERSION`)."""


class BrokenArchiveError(UnreadablePickleError):
    """The pickle is in something broken, or in none of `torch.save`'s."""


class ForeignFileError(BrokenArchiveError):
    """It is a file of another kind; the message is what follows its name."""


class _Stretch(NamedTuple):
    """A part of a file, which holds one saved object."""

    path: str
    fd: int
    start: int
    length: int


def read_torch_file(path: str, start: int = 0, length: int | None = None) -> TorchFile | Unknown:
    """Return what a file of `torch.save` holds, by its pickle alone, be it more than `torch.load` takes; or why not.

    It begins at a byte, with so many (None: to the end): a distributed checkpoint puts many into one file.
    """
    name = os.path.basename(path)
    with _opened(path) as fd:
        try:
            return _read(path, fd, start, length, safe=False)
        except ForeignFileError as error:
            return Unknown(f"{name} was not read: it {error}")
        except TargetError as error:
            return Unknown(str(error))
        except Exception as error:  # noqa: BLE001  # whatever zipfile makes of a damaged archive, the file is not read
            return Unknown(f"{name} was not read: {str(error) or type(error).__name__}")


def read_weights_file(path: str) -> TorchFile:
    """Return what a file of `torch.save` holds, as strictly as `torch.load(weights_only=True)`, all its bytes there."""
    with _opened(path) as fd:
        size = os.fstat(fd).st_size
        try:
            saved = _read(path, fd, 0, None, safe=True)
            _check_places(saved, size)
        except Exception as error:
            if os.fstat(fd).st_size < size:
                raise TargetError(f"{path} changed while it was read", path) from error
            raise TargetError(_sentence(path, fd, error), path) from error
    return saved


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = open_regular(path, path)
    try:
        yield fd
    finally:
        os.close(fd)


def _sentence(path: str, fd: int, error: Exception) -> str:
    """Say why a file of weights was not read: whatever `zipfile` makes of a damaged archive, in one sentence."""
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    match error:
        case TargetError():
            return str(error)
        case ForeignFileError():
            first = os.pread(fd, len(LFS_POINTER), 0)
            refuse_pointer(first, path)
            return f"{path} is empty" if not first else f"{path} {cause}"
        case ForbiddenNameError():
            return (
                f"{path} was not loaded: it is a pickle that asks for {error.name}, which is no tensor, and such a "
                "name can run any code; if you trust it, save its state_dict alone, or name a function that builds the "
                "model (file.py:function)"
            )
        case UnreadablePickleError() if not isinstance(error, BrokenArchiveError):
            return f"{path} was not loaded: it is no pickle that torch can read safely ({cause})"
    return f"{path} is broken or no file of torch's: {cause}"


def _read(path: str, fd: int, start: int, length: int | None, *, safe: bool) -> TorchFile:
    length = max(0, os.fstat(fd).st_size - start) if length is None else length
    first = os.pread(fd, len(LFS_POINTER), start)
    storages: dict[str, Storage] = {}
    if first.startswith(b"PK\x03\x04"):
        tree, places = _zipped(_Stretch(path, fd, start, length), storages, safe=safe)
    elif first.startswith(b"\x80"):
        tree, places = _legacy(_Stretch(path, fd, start, length), storages, safe=safe)
    elif first.startswith(LFS_POINTER):
        raise ForeignFileError("is a Git LFS pointer, not the data")
    else:
        raise ForeignFileError(f"is no file of torch's: it begins with {first[:8]!r}, as no pickle or zip does")
    if safe and any(storage.old is first.startswith(b"PK") for storage in storages.values()):
        raise BrokenArchiveError("it names its storages as files of the other form do")
    return TorchFile(path, tree, storages, places)


def _check_places(saved: TorchFile, size: int) -> None:
    """Refuse a file in which some storage has not the bytes that its pickle says."""
    for key, storage in saved.storages.items():
        place = saved.places.get(key)
        if place is None:
            raise BrokenArchiveError(f"it lacks the bytes of storage {key[:40]!r}")
        there = place.nbytes if place.start is None else max(0, min(place.nbytes, size - place.start))
        if there != storage.nbytes:
            more = " (truncated)" if there < storage.nbytes else ""
            raise BrokenArchiveError(
                f"storage {key[:40]!r} has {storage.nbytes:,} bytes by its pickle, and {there:,} are there{more}"
            )


def _zipped(where: _Stretch, storages: dict[str, Storage], *, safe: bool) -> tuple[Any, dict[str, StoragePlace]]:
    """Read the zip form: `<name>/data.pkl` beside one uncompressed entry a storage."""
    path, fd, start, length = where
    window = cast("IO[bytes]", io.BufferedReader(Window(fd, start, length)))
    if _directory_bytes(window) > ZIP_DIRECTORY_BYTES:
        raise BrokenArchiveError(f"its zip directory has more than the {ZIP_DIRECTORY_BYTES:,} bytes that are read")
    with zipfile.ZipFile(window) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl") or entry.filename == "data.pkl"]
        there = {entry.filename for entry in entries}
        folder = pickles[0].filename.removesuffix("data.pkl") if pickles else ""
        if f"{folder}constants.pkl" in there:
            raise ForeignFileError("is a TorchScript program, not a state dict")
        versions = {f"{folder}version", f"{folder}.data/version"}
        whole = len(pickles) == 1 and len(there) == len(entries)
        # torch takes what stands before the first entry's first slash for the folder of all
        if not whole or (safe and not (there & versions and folder == entries[0].filename.partition("/")[0] + "/")):
            raise BrokenArchiveError("it is a zip archive, but none of torch.save's")
        if pickles[0].file_size > PICKLE_BYTES:
            raise BrokenArchiveError(f"its pickle has more than the {PICKLE_BYTES:,} bytes that are read")
        target_account().take(READ, pickles[0].file_size, path)
        for version in versions & there if safe else ():
            with archive.open(version) as said:
                _check_version(said.read(20).strip())
        if f"{folder}byteorder" in there:
            with archive.open(f"{folder}byteorder") as said:
                _check_order(said.read(16))
        with archive.open(pickles[0]) as pickled:
            tree = read_pickle(io.BytesIO(pickled.read(PICKLE_BYTES)), storages, label=path, safe=safe)
    return tree, _places(where, entries, f"{folder}data/")


def _places(where: _Stretch, entries: list[zipfile.ZipInfo], folder: str) -> dict[str, StoragePlace]:
    """Return where the storages of a zip archive lie."""
    places = {}
    for entry in entries:
        if entry.filename.startswith(folder):
            # The local header has lengths of its own for the name and the extra field.
            lengths = os.pread(where.fd, 4, where.start + entry.header_offset + 26)
            if len(lengths) < 4:
                raise BrokenArchiveError("it is a zip archive that was cut off")
            begin = (
                where.start
                + entry.header_offset
                + 30
                + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
            )
            stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
            if stored and entry.compress_size != entry.file_size:
                raise BrokenArchiveError(f"its directory gives {entry.filename[:40]!r} two sizes")
            places[entry.filename.removeprefix(folder)] = StoragePlace(begin if stored else None, entry.file_size)
    return places


def _check_version(word: bytes) -> None:
    if not word.isdigit() or not 1 <= int(word) <= FORMATS:
        raise BrokenArchiveError(f"it is of version {word!r}, which torch does not read")


def _check_order(said: bytes) -> None:
    if said == b"big":
        raise ForeignFileError(BIG_ENDIAN)
    if said != b"little":
        raise BrokenArchiveError(f"it names an order of bytes that is not known, {said!r}")


def _directory_bytes(window: IO[bytes]) -> int:
    """Return the bytes of a zip archive's directory by the records at its end; `zipfile` would read gigabytes of it."""
    end = window.seek(0, 2)
    window.seek(max(0, end - (1 << 16) - 22))
    tail = window.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise BrokenArchiveError("it is a zip archive that was cut off")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size == 0xFFFFFFFF:
        record = tail.rfind(b"PK\x06\x06", 0, at)
        size = int.from_bytes(tail[record + 40 : record + 48], "little") if record >= 0 else 1 << 62
    return size


def _legacy(where: _Stretch, storages: dict[str, Storage], *, safe: bool) -> tuple[Any, dict[str, StoragePlace]]:
    """Read the older form: five pickles one after another, and the storages behind them, each after its count."""
    path, fd, start, length = where
    window = cast("IO[bytes]", io.BufferedReader(Window(fd, start, min(PICKLE_BYTES, length))))
    target_account().take(READ, min(PICKLE_BYTES, length), path)
    if read_pickle(window, label=path, safe=safe) != MAGIC:
        raise BrokenArchiveError("it is a plain pickle, not one of torch.save's")
    if read_pickle(window, label=path, safe=safe) != PROTOCOL:
        raise BrokenArchiveError("it is of a version that is not known")
    machine = read_pickle(window, label=path, safe=safe)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ForeignFileError(BIG_ENDIAN)
    tree = read_pickle(window, storages, label=path, safe=safe)
    keys = read_pickle(window, label=path, safe=safe)
    places: dict[str, StoragePlace] = {}
    position = start + window.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise BrokenArchiveError("it holds a storage that its pickle does not mention")
        size = ITEMSIZES[storage.dtype] if storage.dtype else 1
        count = int.from_bytes(os.pread(fd, 8, position), "little")
        if safe and count * size != storage.nbytes:
            raise BrokenArchiveError(
                f"storage {storage.key[:40]!r} has {storage.nbytes:,} bytes by its pickle, and says {count * size:,}"
            )
        places[storage.key] = StoragePlace(position + 8, min(count * size, max(0, start + length - position - 8)))
        position += 8 + storage.nbytes
    return tree, places
