"""Stores as a source of a fleet: the folders in them that hold a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.remote.fsspec_store import open_filesystem
from tiecheck.files.remote.s3_store import S3Store, open_s3
from tiecheck.fleet.listed import MANY, SIGNS, Listed, file_sort, value_digest
from tiecheck.targets.parse import FILE_ENDINGS


def list_store(address: str) -> Iterator[Listed]:
    """Give the folders of a store that hold a model, each with the sizes and etags of its files."""
    label = without_secrets(address)
    if address.endswith(FILE_ENDINGS):
        yield Listed(address)
        return
    bucket = open_s3(address)
    found = False
    for model in _folders(address, label) if bucket is None else _bucket(bucket):
        found = True
        yield model
    if not found:
        raise TargetError(f"{label} holds no model", label)


def _folders(address: str, label: str) -> Iterator[Listed]:
    """Give them folder by folder, as fsspec lists each."""
    fs, root = open_filesystem(address, label)
    scheme = address.partition("://")[0]
    waiting = [(root.rstrip("/"), False)]
    while waiting:
        folder, inside = waiting.pop()
        try:
            entries: list[dict[str, Any]] = fs.ls(folder, detail=True, refresh=True)
        except Exception as error:
            if folder == root.rstrip("/"):
                raise TargetError(f"{label} cannot be listed: {type(error).__name__}: {error}", label) from error
            yield Listed(f"{scheme}://{folder.lstrip('/')}")  # its check says why
            continue
        names = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry for entry in entries}
        files = {name: entry for name, entry in names.items() if entry.get("type") == "file"}
        seen = set(map(file_sort, files))
        if {"config", "weights"} <= seen or (not inside and not seen.isdisjoint(SIGNS)):
            inside = True
            yield Listed(f"{scheme}://{folder.lstrip('/')}", _mark(files))
        below = (str(entry["name"]) for entry in entries if entry.get("type") == "directory")
        waiting += [(name.rstrip("/"), inside) for name in below if name.rstrip("/") != folder]


def _mark(files: dict[str, dict[str, Any]]) -> str:
    """Return a mark of some files by their names, sizes and what a store says of their versions."""
    told = [
        (name, entry.get("size"), str(entry.get("ETag") or entry.get("etag") or entry.get("LastModified") or ""))
        for name, entry in sorted(files.items())
    ]
    return value_digest(told)


class _Folder(NamedTuple):
    """A folder of which files may still come: those of one stand together, and those below it among them."""

    path: str
    files: dict[str, dict[str, Any]]
    halves: list[Listed]
    """Folders below with a config or weights alone: models, if no folder above them has either."""


def _bucket(store: S3Store) -> Iterator[Listed]:
    """Give the same of a bucket of S3 by one list of all its files, a thousand a request; each with its names too."""
    trail = [_Folder("", {}, []), _Folder("", {}, [])]
    last = b""
    for path, entry in store.listed():
        if path.encode() <= last:
            raise TargetError(f"{store.address} cannot be listed: the store does not list in order", store.address)
        last = path.encode()
        folder, mark, name = path.rpartition("/")
        while not (folder + mark).startswith(trail[-1].path):
            yield from _ended(store, trail)
        for part in (folder + mark)[len(trail[-1].path) :].split("/")[:-1]:
            trail.append(_Folder(f"{trail[-1].path}{part}/", {}, []))
        trail[-1].files[name] = entry
    while trail[1:]:
        yield from _ended(store, trail)
    yield from trail[0].halves


def _ended(store: S3Store, trail: list[_Folder]) -> Iterator[Listed]:
    """Take the last folder off, of which all was seen; give it if it is surely a model."""
    folder, files, halves = trail.pop()
    sorts = set(map(file_sort, files))
    here = Listed(f"{store.address}/{folder}".rstrip("/"), _mark(files), None, frozenset(files))
    if {"config", "weights"} <= sorts:
        yield here
    elif not sorts.isdisjoint(SIGNS):
        trail[-1].halves.append(here)
    else:
        trail[-1].halves.extend(halves)
    if len(trail[-1].halves) > MANY:  # so many are not the parts of one model
        yield from trail[-1].halves
        trail[-1].halves.clear()
