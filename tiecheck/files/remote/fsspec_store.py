"""Any other store by fsspec: S3, GCS, Azure, SFTP, memory. Ranges only, never a file object and its cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from tiecheck.errors import MissingExtraError, TargetError, without_secrets
from tiecheck.files.remote.store import ByteRange, Start, target_meter
from tiecheck.records.report import Traffic


class FsspecStore:
    """A folder of a store that fsspec knows, one of its libraries installed.

    A request is counted for each call to fsspec that asks for one thing: what the library makes of it is its own.
    """

    def __init__(self, address: str) -> None:
        self._label = without_secrets(address).rstrip("/")
        self._fs, self._root = open_filesystem(address, self._label)
        self._meter = target_meter()
        self._secrets = _secrets(address)
        self._sizes: dict[str, int] = {}

    @property
    def address(self) -> str:
        """The address without what may be secret in it."""
        return self._label

    def traffic(self) -> Traffic:
        """Return the bytes and requests so far."""
        return self._meter.read()

    def names(self) -> Collection[str] | None:
        """Return the files right below the folder."""
        self._meter.add(0)
        try:
            self._fs.invalidate_cache(self._root)
            entries = self._fs.ls(self._root, detail=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TargetError(f"there is no {self._label}, or it is empty", self._label) from error
        except Exception as error:
            raise self._failed(error, self._label) from error
        start = self._root.rstrip("/").lstrip("/") + "/"
        for entry in entries:
            name = str(entry["name"]).lstrip("/").removeprefix(start)
            if entry.get("type") == "file" and entry.get("size") is not None:
                self._sizes[name] = int(entry["size"])
        return self._sizes.keys()

    def small(self, name: str, limit: int) -> bytes | None:
        """Return a whole small file; None where there is none."""
        size = self._size(name)
        if size is None:
            return None
        if size > limit:
            label = self._path(name)
            raise TargetError(f"{label} has {size:,} bytes, more than the {limit:,} that are read", label)
        return self.spans([ByteRange(name, 0, size)])[0] if size else b""

    def starts(self, wanted: Sequence[tuple[str, int]]) -> list[Start | None]:
        """Return the first bytes of some files, fetched together."""
        sizes = [self._size(name) for name, _ in wanted]
        there = [
            ByteRange(name, 0, min(count, size)) for (name, count), size in zip(wanted, sizes, strict=True) if size
        ]
        found = dict(zip((span.name for span in there), self.spans(there), strict=True))
        return [
            None if size is None else Start(found.get(name, b""), size)
            for (name, _), size in zip(wanted, sizes, strict=True)
        ]

    def spans(self, wanted: Sequence[ByteRange]) -> list[bytes]:
        """Byte ranges, fetched together."""
        if not wanted:
            return []
        try:
            raws = self._fs.cat_ranges(
                [f"{self._root}/{span.name}" for span in wanted],
                [span.offset for span in wanted],
                [span.offset + span.length for span in wanted],
                on_error="return",
            )
        except Exception as error:
            raise self._failed(error, self._label) from error
        for span, raw in zip(wanted, raws, strict=True):
            label = self._path(span.name)
            if isinstance(raw, Exception):
                raise self._failed(raw, label) from raw
            self._meter.add(len(raw))
            if len(raw) != span.length:
                raise TargetError(f"{label} ends too early: {len(raw):,} bytes came of {span.length:,}", label)
        return [bytes(raw) for raw in raws]

    def _size(self, name: str) -> int | None:
        """Return the bytes of a file by the listing, or by asking; None where there is none."""
        if name not in self._sizes:
            self._meter.add(0)
            try:
                size = self._fs.info(f"{self._root}/{name}").get("size")
            except (FileNotFoundError, NotADirectoryError):
                return None
            except Exception as error:
                raise self._failed(error, self._path(name)) from error
            if size is None:
                label = self._path(name)
                raise TargetError(f"{label}: the store does not say how large the file is", label)
            self._sizes[name] = int(size)
        return self._sizes[name]

    def _path(self, name: str) -> str:
        return f"{self._label}/{name}"

    def _failed(self, error: Exception, label: str) -> TargetError | MissingExtraError:
        """Return one sentence for whatever the library raised."""
        text = _told(error, self._secrets)
        if isinstance(error, PermissionError):
            return TargetError(f"{label} cannot be read: the store forbids it ({text or 'no permission'})", label)
        return TargetError(f"{label} cannot be read: {type(error).__name__}{': ' if text else ''}{text}", label)


def open_filesystem(address: str, label: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it; a missing library is named with its install."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    try:
        fs, root = url_to_fs(address)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", protocol).partition(".")[0]
        raise MissingExtraError(f"Reading {protocol}:// addresses", package=package) from error
    except ValueError as error:
        if protocol in known_implementations:
            text = _told(error, _secrets(address))
            raise TargetError(f"{label} is no address that can be read: {text}", label) from error
        raise TargetError(f"{label}: {protocol}:// is no kind of address that is known", label) from error
    except Exception as error:
        text = _told(error, _secrets(address))
        raise TargetError(f"{label} cannot be read: {type(error).__name__}: {text}", label) from error
    return fs, str(root)


def _secrets(address: str) -> list[str]:
    """Return the parts of an address that may be secret, as they stand there and decoded; the longest first."""
    parts = urlsplit(address)
    found = {part for part in (parts.netloc.rpartition("@")[0], parts.password, parts.query) if part}
    return sorted(found | {unquote(part) for part in found}, key=len, reverse=True)


def _told(error: Exception, secrets: list[str]) -> str:
    """Return the words of a library's exception, cut, without what may be secret."""
    text = " ".join(str(error).split())
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:300]
