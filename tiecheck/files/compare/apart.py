"""Stored members that surely differ, told by a few numbers: less than the count of rows that a finding wants."""

from __future__ import annotations

import os
from math import isfinite

from tiecheck.files.compare.distance import Decode, number_decoder
from tiecheck.files.compare.equality import SAMPLE, sample_offsets
from tiecheck.files.compare.spans import Span
from tiecheck.files.local import open_regular, path_inside
from tiecheck.records.stored import Checkpoint, StoredTensor

WINDOW = 64
"""Bytes of which numbers are made at once: whole elements of every type."""


def surely_apart(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> bool:
    """Tell by samples whether some members, alike in dtype and shape, differ in a finite number and are not `alike`.

    A file that is gone is a `TargetError`, one that became too short an `EOFError`.
    """
    decode = number_decoder(tensors[0].dtype)
    if decode is None or checkpoint.format != "safetensors":
        return False
    opened: dict[str, int] = {}
    try:
        for name in {tensor.file for tensor in tensors}:
            path = path_inside(checkpoint.root, name)
            opened[name] = open_regular(path, path)
        first, *others = [Span(opened[tensor.file], tensor.start or 0, tensor.nbytes) for tensor in tensors]
        for offset in sample_offsets(first.nbytes):
            begin = offset - offset % WINDOW
            count = min(SAMPLE, first.nbytes - begin)
            block = first.read(begin, count)
            if any(_apart(decode, block, other.read(begin, count)) for other in others):
                return True
        return False
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _apart(decode: Decode, block: bytes, beside: bytes) -> bool:
    """Tell whether the first bytes that differ hold a finite number that does."""
    if beside == block:
        return False
    for at in range(0, len(block) - WINDOW + 1, WINDOW):
        a, b = block[at : at + WINDOW], beside[at : at + WINDOW]
        if a != b:
            return any(x != y and isfinite(x) and isfinite(y) for x, y in zip(decode(a), decode(b), strict=True))
    return False
