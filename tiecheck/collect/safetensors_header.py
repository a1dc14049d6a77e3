"""safetensors headers: names, dtypes, shapes and offsets, without the library and without a tensor byte.

The format (safetensors 0.8, `tensor.rs`): eight bytes of little-endian header length, that many bytes of
JSON, then the data, which the entries must cover without gap or overlap. `safetensors.safe_open` gives no
offsets, and the hub's own parser costs a third of a second to import.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiecheck.collect.files import LFS_POINTER, open_regular, parse_json, refuse_pointer
from tiecheck.errors import TargetError
from tiecheck.facts import Shard, read_entry

HEADER_LIMIT = 100_000_000
"""Bytes of the largest header safetensors itself reads (`MAX_HEADER_SIZE`)."""

TYPED_FROM = 1_000_000
"""Header bytes, over all shards, from which msgspec, three times faster than json, earns back its own import."""

BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of an element of each dtype of safetensors 0.8 (`Dtype::bitsize`); the sizes of any other are not checked."""

_WORD = 1 << 64
"""One more than the largest number safetensors reads (`u64`)."""


def read_shards(paths: Iterable[tuple[str, str]]) -> tuple[Shard, ...]:
    """The headers of some files, typed once the headers read so far are large together.

    Args:
        paths: Pairs of a path and the name the report uses for it.
    """
    shards: list[Shard] = []
    parsed = 0
    for path, label in paths:
        shards.append(read_shard(path, label, typed=parsed >= TYPED_FROM))
        parsed += shards[-1].data_start
    return tuple(shards)


def read_shard(path: str, label: str, *, typed: bool = False) -> Shard:
    """The header of one safetensors file.

    As strict as `safe_open` of safetensors 0.8, but that dtypes which it does not know pass, since a later version
    may, and that an entry must be an object, where a list would do for it.

    Args:
        path: The file.
        label: The name the report uses for it, relative to the target.
        typed: Whether to parse a small header like a large one, since msgspec is there already.

    Raises:
        TargetError: Truncated, a header length beyond the file or the limit, not JSON, or entries that do not
            describe the data.
    """
    with os.fdopen(open_regular(path, path), "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if LFS_POINTER.startswith(first):
                refuse_pointer(first + file.read(len(LFS_POINTER)), path)
            check_length(path, size, length)
            raw = file.read(length)
        except OSError as error:
            raise TargetError(f"{path} cannot be read: {error.strerror or error}", path) from error
    return shard_of_header(raw, size, path, label, typed=typed)


def shard_of_header(raw: bytes, size: int, path: str, label: str, *, typed: bool = False) -> Shard:
    """A shard by the JSON of its header, wherever that came from.

    Args:
        raw: The header's JSON, without the 8 bytes of length before it.
        size: Bytes of the whole file.
        path: What messages call the file.
        label: The name the report uses for it, relative to the target.
        typed: Whether to parse a small header like a large one.

    Raises:
        TargetError: Not JSON, or entries that do not describe the data.
    """
    entries = _parse(raw, path, typed=typed or len(raw) >= TYPED_FROM)
    _check_entries(path, entries, size - 8 - len(raw))
    return Shard(label, 8 + len(raw), entries)


def check_length(path: str, size: int, length: int) -> None:
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


def half_characters(raw: bytes) -> bool:
    """Whether a JSON text may hold half of a surrogate pair, which msgspec lets pass."""
    return b"\\ud" in raw or b"\\uD" in raw


def _parse(raw: bytes, path: str, *, typed: bool) -> Mapping[str, Any]:
    label = f"the header of {path}"
    entries = _parse_typed(raw) if typed and not half_characters(raw) else None
    if entries is None:
        entries = parse_json(raw, label, path, constant=_refuse)
    if not isinstance(entries, dict):
        raise TargetError(f"{label} is not a JSON object", path)
    notes = entries.pop("__metadata__", None)
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())):
        raise TargetError(f"{label} is broken: its __metadata__ is not an object of strings", path)
    return entries


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


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
        entries = msgspec.json.decode(raw, type=dict[str, Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    else:
        entries.pop("__metadata__", None)
        return entries
    finally:
        if enabled:
            gc.enable()


def _check_entries(path: str, entries: Mapping[str, Any], available: int) -> None:
    """Every entry is well formed, and together they cover the data exactly, as safetensors demands."""
    last = 0
    ordered = True  # as every writer leaves them, so that nothing has to be sorted
    for name, entry in entries.items():
        try:
            if isinstance(entry, dict):
                dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
                _check_types(dtype, shape, start, end)
            else:
                dtype, shape, (start, end) = entry.dtype, entry.shape, entry.data_offsets
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TargetError(_broken(path, name), path) from error
        bits = BITS.get(dtype)
        if not 0 <= start <= end < _WORD or not dtype or ((bits is None or start == end) and not _countable(shape)):
            raise TargetError(_broken(path, name), path)
        if bits is not None and math.prod(shape) * bits != (end - start) * 8:
            raise TargetError(
                f"the header of {path} is broken: {name!r} is {dtype} of shape {list(shape)}, and has "
                f"{end - start:,} bytes",
                path,
            )
        if start != last:
            ordered = False
        last = end
    if not ordered or last != available:
        _check_cover(path, sorted(read_entry(entry)[2:] for entry in entries.values()), available)


def _broken(path: str, name: str) -> str:
    return (
        f"the header of {path} has a broken entry for {name!r}: dtype, shape and data_offsets are needed, of whole "
        "numbers, none negative, the end not before the beginning"
    )


def _check_types(dtype: object, shape: object, start: object, end: object) -> None:
    """The types of an entry that no typed parser has seen."""
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError
    for number in (*shape, start, end):
        if type(number) is not int or number < 0:
            raise TypeError


def _countable(shape: Sequence[int]) -> bool:
    """Whether the elements can be counted in 64 bits, step by step as safetensors does, a zero among them or not."""
    count = 1
    for size in shape:
        count *= size
        if not 0 <= size < _WORD or count >= _WORD:
            return False
    return True


def _check_cover(path: str, spans: Sequence[tuple[int, int]], available: int) -> None:
    """The spans follow one another from the first byte of data to the last."""
    last = 0
    whole = True
    for start, end in spans:
        whole = whole and start == last
        last = max(last, end)
    if last > available:
        raise TargetError(
            f"{path} is truncated: its header describes {last:,} bytes of tensors, and {available:,} are there", path
        )
    if not whole or last != available:
        covered = sum(end - start for start, end in spans)
        raise TargetError(
            f"{path} is broken: its entries describe {covered:,} bytes of tensors in {available:,} bytes of data; "
            "safetensors allows no gap, no overlap and nothing behind the last tensor",
            path,
        )
