"""safetensors headers: names, dtypes, shapes and offsets, without the library and without a tensor byte.

The format (safetensors 0.8, `tensor.rs`): eight bytes of little-endian header length, that many bytes of
JSON, then the data, which the entries must cover without gap or overlap. `safetensors.safe_open` gives no
offsets, and the hub's own parser costs a third of a second to import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.files.limits import HEADER_BYTES, READ, VALUES, made_once, target_account
from tiecheck.files.local import LFS_POINTER, open_sized, parse_json, paused_collector, read_from, refuse_pointer
from tiecheck.files.safetensors.soundness import check_entries, quickly_sound, said_once
from tiecheck.records.stored import Shard

TYPED_FROM = 1_000_000
"""Header bytes, over all shards, from which msgspec, three times faster than json, earns back its own import."""

_OWN_KEYS = ("dtype", "shape", "data_offsets", "__metadata__")
"""Keys that safetensors itself refuses to read twice."""


def read_shards(
    paths: Iterable[tuple[str, str]], where: Mapping[str, str] | None = None
) -> tuple[tuple[Shard, ...], bool]:
    """Return the headers of some files (path, name in the report), typed once those read so far are large together.

    Beside the shards it tells whether the index (name -> file) gives every name in them to the shard that holds it. The
    entries of a large header that agrees are not kept, since the index knows them too.
    """
    shards: list[Shard] = []
    agree = where is not None
    parsed = 0
    with paused_collector():  # over all of them: going through what was parsed in between frees nothing
        for path, label in paths:
            target_account().check_time()
            typed = parsed >= TYPED_FROM or "msgspec" in sys.modules  # the index may have brought it
            raw, size = read_header(path)
            shard = made_once((label, size, raw), partial(shard_of_header, raw, size, path, label, typed=typed))
            parsed += shard.data_start
            agree = agree and where is not None and _given(where, shard)
            shards.append(_later(shard, raw) if agree and typed and _is_typed(shard.entries) else shard)
    return tuple(shards), agree


def _given(where: Mapping[str, str], shard: Shard) -> bool:
    """Tell whether an index gives every name of a shard to it, by columns: it is asked of a million."""
    return list(map(where.get, shard.entries)).count(shard.path) == len(shard.entries)


def _is_typed(entries: Mapping[str, Any]) -> bool:
    """Tell whether the typed parser gave some entries, and not json, to which an odd header is left."""
    return bool(entries) and not isinstance(next(iter(entries.values())), dict)


def _later(shard: Shard, raw: bytes) -> Shard:
    from tiecheck.files.safetensors.typed_entries import ReparsedEntries

    return shard._replace(entries=ReparsedEntries(raw, shard.entries))


def read_shard(path: str, label: str, *, typed: bool = False) -> Shard:
    """Return the header of one safetensors file; `typed` parses a small one like a large one, msgspec being there.

    As strict as `safe_open` of safetensors 0.8, but that dtypes which it does not know pass, since a later version may,
    and so does a size of `-0`; that an entry must be an object, where a list would do for it; and that a name that
    stands there twice, with different entries, is refused, where it takes the last.
    """
    raw, size = read_header(path)
    return shard_of_header(raw, size, path, label, typed=typed)


def read_header(path: str) -> tuple[bytes, int]:
    """Return the JSON of a file's header, and the bytes of the whole file."""
    account = target_account()
    descriptor, size = open_sized(path, path)
    try:
        first = read_from(descriptor, 8)
        length = int.from_bytes(first, "little")
        if LFS_POINTER.startswith(first):
            refuse_pointer(first + read_from(descriptor, len(LFS_POINTER)), path)
        check_length(path, size, length)
        account.take(READ, length, path)
        raw = read_from(descriptor, length)
        if len(raw) < length:
            raise TargetError(f"{path} became shorter while its header was read", path)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror or error}", path) from error
    finally:
        account.close(path, descriptor)
    return raw, size


def shard_of_header(raw: bytes, size: int, path: str, label: str, *, typed: bool = False) -> Shard:
    """Return a shard by the JSON of its header, without the 8 bytes before it, and the size of its whole file."""
    available = size - 8 - len(raw)
    entries = _parse_typed(raw, available) if typed or len(raw) >= TYPED_FROM else None
    if entries is None:
        entries = _parse(raw, path, available)
    else:
        target_account().take(VALUES, 4 * len(entries), path)
    return Shard(label, 8 + len(raw), entries, _notes(raw))


def _notes(raw: bytes) -> Mapping[str, str] | None:
    """Return the `__metadata__` of a header that was read and found sound."""
    at = raw.find(b'"__metadata__"')
    start = raw.find(b"{", at) if at >= 0 else -1
    if start < 0:
        return None
    try:
        found = json.JSONDecoder().raw_decode(raw[start : start + 65_536].decode("utf-8", "replace"))[0]
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_length(path: str, size: int, length: int) -> None:
    """Refuse a header length (of the first eight bytes) beyond the file, or what safetensors reads, before it is."""
    if size < 8:
        raise TargetError(
            f"{path} is truncated: it has {size} bytes, and a safetensors file begins with 8 bytes of header length",
            path,
        )
    if length > HEADER_BYTES:
        raise TargetError(
            f"{path} announces a header of {length:,} bytes; safetensors refuses more than {HEADER_BYTES:,}, so "
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
    """Tell whether a JSON text may hold half of a surrogate pair, which msgspec lets pass."""
    return b"\\" in raw and (b"\\ud" in raw or b"\\uD" in raw)


def _parse(raw: bytes, path: str, available: int) -> Mapping[str, Any]:
    """Parse a header by json, and say in one sentence what is wrong with it."""
    label = f"the header of {path}"
    entries = parse_json(raw, label, path, strict=True)
    if not isinstance(entries, dict):
        raise TargetError(f"{label} is not a JSON object", path)
    notes = entries.pop("__metadata__", None)
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())):
        raise TargetError(f"{label} is broken: its __metadata__ is not an object of strings", path)
    check_entries(path, entries, available)
    if any(len(entry) > 3 for entry in entries.values()):
        import re

        if re.search(rb"[0-9]{309}", raw):
            raise TargetError(f"{label} holds a number of more than 308 digits, which safetensors refuses", path)
    if not said_once(raw, entries, notes):
        _refuse_repeats(raw, path)
    return entries


def _refuse_repeats(raw: bytes, path: str) -> None:
    """Refuse a key that is there twice, for one reader takes the first and another the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made and (key in _OWN_KEYS or _told(made[key]) != _told(value)):
                raise TargetError(f"the header of {path} is broken: it holds the key {key!r} twice", path)
            made[key] = value
        return made

    try:
        json.loads(raw, object_pairs_hook=once)
    except RecursionError as error:
        raise TargetError(f"the header of {path} is nested too deeply to be read", path) from error


def _told(value: Any) -> Any:
    """Return the part of a value that is read: of an entry, its three fields."""
    return [value.get(key) for key in _OWN_KEYS] if isinstance(value, dict) else value


def _parse_typed(raw: bytes, available: int) -> Mapping[str, Any] | None:
    """Parse a large header by msgspec with typed entries: a third of json's time and half its memory.

    None where the text does not fit the types or is not surely sound; json then says what is wrong, or reads what
    is merely odd.
    """
    import msgspec

    from tiecheck.files.safetensors.typed_entries import HEADER, NOTES

    if b"\\" in raw:  # half characters, and names that are not what the bytes say
        return None
    if len(raw) > 5 * VALUES.most and raw.count(b",") > VALUES.most:
        return None
    try:
        with paused_collector():
            entries = HEADER.decode(raw)
            notes = None
            if entries.pop("__metadata__", None) is not None:
                # No name holds a quote, so that where this stands once it is the key; a brace in it fails to parse.
                start = raw.index(b"{", raw.index(b'"__metadata__"'))
                notes = NOTES.decode(raw[start : raw.index(b"}", start) + 1])
            sound = quickly_sound(entries, available)
            return entries if sound and said_once(raw, entries, notes) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
