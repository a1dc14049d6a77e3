"""safetensors headers: names, dtypes, shapes and offsets, without the library and without a tensor byte.

The format (safetensors 0.8, `tensor.rs`): eight bytes of little-endian header length, that many bytes of
JSON, then the data, which the entries must cover without gap or overlap. `safetensors.safe_open` gives no
offsets, and the hub's own parser costs a third of a second to import.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tiecheck.collect.files import parse_json
from tiecheck.errors import TargetError
from tiecheck.facts import Shard

HEADER_LIMIT = 100_000_000
"""Bytes of the largest header safetensors itself reads (`MAX_HEADER_SIZE`)."""

TYPED_FROM = 1_000_000
"""Header bytes from which msgspec parses three times faster than json and earns back its own import."""


def read_shard(path: str, label: str) -> Shard:
    """The header of one safetensors file.

    Args:
        path: The file.
        label: The name the report uses for it, relative to the target.

    Raises:
        TargetError: Truncated, a header length beyond the file or the limit, not JSON, or entries that do not
            describe the data.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            _check_length(path, size, length)
            raw = file.read(length)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror or error}", path) from error
    entries = _parse(raw, path)
    _check_entries(path, entries, size - 8 - length)
    return Shard(label, 8 + length, entries)


def _check_length(path: str, size: int, length: int) -> None:
    if size < 8:
        raise TargetError(
            f"{path} is truncated: it has {size} bytes, and a safetensors file begins with 8 bytes of header length",
            path,
        )
    if length > HEADER_LIMIT:
        raise TargetError(
            f"{path} announces a header of {length:,} bytes; safetensors refuses more than {HEADER_LIMIT:,}, so "
            "this is no safetensors file or a broken one",
            path,
        )
    if length > size - 8:
        raise TargetError(
            f"{path} announces a header of {length:,} bytes, but has only {size - 8:,} after the length: "
            "it is truncated or no safetensors file",
            path,
        )


def _parse(raw: bytes, path: str) -> Mapping[str, Any]:
    label = f"the header of {path}"
    entries = _parse_typed(raw) if len(raw) >= TYPED_FROM else None
    if entries is None:
        entries = parse_json(raw, label, path)
    if not isinstance(entries, dict):
        raise TargetError(f"{label} is not a JSON object", path)
    entries.pop("__metadata__", None)
    return entries


def _parse_typed(raw: bytes) -> Any:
    """A large header, by msgspec with typed entries: a third of json's time and half its memory.

    None where the text does not fit the types; json then says what is wrong, or reads what is merely odd.
    """
    import gc

    import msgspec

    from tiecheck.collect.safetensors_entry import Entry

    enabled = gc.isenabled()
    gc.disable()
    try:
        return msgspec.json.decode(raw, type=dict[str, Entry])
    except (msgspec.DecodeError, RecursionError):
        return None
    finally:
        if enabled:
            gc.enable()


def _check_entries(path: str, entries: Mapping[str, Any], available: int) -> None:
    """Every entry is well formed, and together they cover the data exactly, as safetensors demands."""
    last = covered = 0
    for name, entry in entries.items():
        try:
            offsets = entry["data_offsets"] if isinstance(entry, dict) else entry.data_offsets
            start, end = offsets
            if isinstance(entry, dict):
                _check_types(entry)
            if not 0 <= start <= end:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise TargetError(
                f"the header of {path} has a broken entry for {name!r}: dtype, shape and data_offsets are needed", path
            ) from error
        covered += end - start
        last = max(last, end)
    if last > available:
        raise TargetError(
            f"{path} is truncated: its header describes {last:,} bytes of tensors, and {available:,} are there", path
        )
    if last != available or covered != available:
        raise TargetError(
            f"{path} is broken: its entries cover {covered:,} of {available:,} bytes of data; safetensors allows no "
            "gap, no overlap and nothing behind the last tensor",
            path,
        )


def _check_types(entry: Mapping[str, Any]) -> None:
    shape = entry["shape"]
    if not isinstance(entry["dtype"], str) or not isinstance(shape, list):
        raise TypeError
    for number in (*shape, *entry["data_offsets"]):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TypeError
