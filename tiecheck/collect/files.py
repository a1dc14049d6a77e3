"""Which files of a target may be read, and reading JSON so that bad input ends in one clear sentence."""

from __future__ import annotations

import json
import os
from typing import Any

from tiecheck.errors import TargetError

JSON_LIMIT = 256 * 1024 * 1024
"""Bytes of a config or index that are read at most; the index of a million tensors has some 130 MB."""


def inside(root: str, name: str) -> str:
    """The full path of a file of a target directory, refused where it leads outside.

    The Hugging Face hub cache keeps `snapshots/<revision>/model.safetensors` as a link to `blobs/<hash>`
    two levels up: such links are the cache's own and are followed.

    Args:
        root: The target directory.
        name: A path relative to it.

    Raises:
        TargetError: The path, or the link it is, leads outside the directory.
    """
    path = os.path.join(root, name)
    plain = os.path.normpath(name)
    if os.path.isabs(name) or plain.startswith(".."):
        raise TargetError(f"{name!r} lies outside the target directory, and is not read", path)
    real = os.path.realpath(path)
    base = os.path.realpath(root)
    if real.startswith(base.rstrip(os.sep) + os.sep) or real == base:
        return path
    if _is_hub_cache_link(base, real):
        return path
    raise TargetError(
        f"{path} is a link to {real}, outside the target directory, and is not read; "
        "name that file or its folder instead",
        path,
    )


def _is_hub_cache_link(base: str, real: str) -> bool:
    """Whether a link goes from `<repo>/snapshots/<revision>` to `<repo>/blobs`."""
    head, revision_parent, _ = base.rpartition(f"{os.sep}snapshots{os.sep}")
    return bool(revision_parent) and os.path.dirname(real) == os.path.join(head, "blobs")


def read_bytes(path: str, label: str) -> bytes:
    """A whole file that is expected to be small.

    Raises:
        TargetError: It cannot be opened or is too large.
    """
    try:
        if not os.path.isfile(path):
            raise TargetError(f"{label} is not a regular file", path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > JSON_LIMIT:
                raise TargetError(f"{label} has {size:,} bytes, more than the {JSON_LIMIT:,} that are read", path)
            return file.read()
    except OSError as error:
        raise TargetError(f"{label} cannot be read: {error.strerror or error}", path) from error


def parse_json(raw: bytes, label: str, path: str) -> Any:
    """JSON, parsed with the garbage collector paused: it costs a good part of a large header.

    Raises:
        TargetError: Not JSON, not UTF-8, or nested too deeply to parse.
    """
    import gc

    enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(raw)
    except UnicodeDecodeError as error:
        raise TargetError(f"{label} is not UTF-8 text: byte {error.start} cannot be decoded", path) from error
    except json.JSONDecodeError as error:
        raise TargetError(
            f"{label} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}", path
        ) from error
    except RecursionError as error:
        raise TargetError(f"{label} is nested too deeply to be read", path) from error
    finally:
        if enabled:
            gc.enable()
