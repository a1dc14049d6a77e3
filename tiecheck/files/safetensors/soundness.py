"""Soundness of the entries of a safetensors header: well formed, said once, and covering the data exactly.

A quick look at all of them at once, by means that run in C, and, where that is not content, a slow one that
names the culprit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter, sub
from typing import Any

from tiecheck.errors import TargetError
from tiecheck.records.stored import read_entry

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


def quickly_sound(entries: Mapping[str, Any], available: int) -> bool:
    """Tell whether typed entries follow one another in the order of the file and are sound; false means: look again.

    Ninety thousand tensors have a few combinations of dtype, shape and bytes, and each is looked at once.
    """
    if not entries:
        return False
    typed = list(entries.values())
    spans = list(map(attrgetter("data_offsets"), typed))
    starts = list(map(attrgetter("start"), spans))
    ends = list(map(attrgetter("end"), spans))
    if starts[1:] == ends[:-1]:  # as every writer leaves them
        first, last = starts[0], ends[-1]
    else:
        begins, stops = zip(*sorted(zip(starts, ends, strict=True)), strict=True)
        first, last = begins[0], stops[-1]
        if begins[1:] != stops[:-1]:
            return False
    if first or last != available:
        return False
    kinds = set(
        zip(map(attrgetter("dtype"), typed), map(attrgetter("shape"), typed), map(sub, ends, starts), strict=True)
    )
    for dtype, shape, nbytes in kinds:
        bits = BITS.get(dtype)
        if nbytes < 0 or not dtype or not _countable(shape):
            return False
        if bits is not None and math.prod(shape) * bits != nbytes * 8:
            return False
    return True


def said_once(raw: bytes, entries: Mapping[str, Any], notes: Mapping[str, str] | None) -> bool:
    """Tell whether a header surely repeats no key, told by its colons: every pair in it takes one.

    An entry has three fields, and one colon goes to its name. What has more (a repeated key, a field that is not known,
    a colon in a name that is escaped) is for the slow way.
    """
    if b"\\" in raw:
        return False
    pairs = 4 * len(entries) + (0 if notes is None else 1 + len(notes))
    colons = raw.count(b":")
    if colons == pairs:
        return True
    texts = [*entries, *(notes or {}), *(notes or {}).values()]
    return colons == pairs + "".join(texts).count(":")


def check_entries(path: str, entries: Mapping[str, Any], available: int) -> None:
    """Check that every entry is well formed, and that they cover the data exactly, as safetensors demands."""
    if _as_written(entries.values(), available):
        return
    last = 0
    ordered = True  # as every writer leaves them, so that nothing has to be sorted
    for name, entry in entries.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            _check_types(entry, dtype, shape, start, end)
        except (KeyError, TypeError, ValueError) as error:
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


def _as_written(entries: Collection[Any], available: int) -> bool:
    """Tell by columns whether entries are surely sound and one behind the other, as every writer leaves them."""
    try:
        dtypes = list(map(itemgetter("dtype"), entries))
        shapes = list(map(itemgetter("shape"), entries))
        starts, ends = zip(*map(itemgetter("data_offsets"), entries), strict=True)
    except (KeyError, TypeError, ValueError):  # an entry lacks something, or there is none
        return False
    if set(map(type, shapes)) != {list} or set(map(type, dtypes)) != {str}:
        return False
    if {*map(type, starts), *map(type, ends), *map(type, chain.from_iterable(shapes))} != {int}:  # True is no 1
        return False
    if starts[0] or starts[1:] != ends[:-1] or ends[-1] != available:
        return False
    kinds = set(zip(dtypes, map(tuple, shapes), map(sub, ends, starts), strict=True))
    return all(
        dtype in BITS and nbytes > 0 and _countable(shape) and math.prod(shape) * BITS[dtype] == nbytes * 8
        for dtype, shape, nbytes in kinds
    )


def _broken(path: str, name: str) -> str:
    return (
        f"the header of {path} has a broken entry for {name!r}: dtype, shape and data_offsets are needed, of whole "
        "numbers, none negative, the end not before the beginning"
    )


def _check_types(entry: object, dtype: object, shape: object, start: object, end: object) -> None:
    """Check the types of an entry that no typed parser has seen."""
    if not isinstance(entry, dict) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError
    for number in (*shape, start, end):
        if type(number) is not int or number < 0:
            raise TypeError


def _countable(shape: Sequence[int]) -> bool:
    """Tell whether the elements can be counted in 64 bits, step by step as safetensors does, even beside a zero."""
    count = 1
    for size in shape:
        count *= size
        if not 0 <= size < _WORD or count >= _WORD:
            return False
    return True


def _check_cover(path: str, spans: Sequence[tuple[int, int]], available: int) -> None:
    """Check that the spans follow one another from the first byte of data to the last."""
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
