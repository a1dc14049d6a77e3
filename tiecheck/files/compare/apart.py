"""Stored members that surely differ, told by a few numbers: less than the count of rows that a finding wants."""

from __future__ import annotations

from math import isfinite

from tiecheck.files.compare.distance import number_decoder
from tiecheck.files.compare.equality import SAMPLE, sample_offsets
from tiecheck.files.compare.spans import opened_members
from tiecheck.records.stored import Checkpoint, StoredTensor

WINDOW = 64
"""Bytes of which numbers are made at once: whole elements of every type."""


def surely_apart(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> bool:
    """Tell by samples whether some members differ in a finite number, so that their comparison is not `alike`.

    Args:
        checkpoint: Where they are stored.
        tensors: Two or more, alike in dtype and shape.

    Raises:
        TargetError: A file is not there any more, or is no regular file now.
        OSError: A file cannot be read.
        EOFError: A file has become too short.
    """
    decode = number_decoder(tensors[0].dtype)
    if decode is None or checkpoint.format != "safetensors":
        return False
    with opened_members(checkpoint, tensors) as (first, *others):
        for offset in sample_offsets(first.nbytes):
            begin = offset - offset % WINDOW
            count = min(SAMPLE, first.nbytes - begin)
            block = first.read(begin, count)
            for other in others:
                beside = other.read(begin, count)
                if beside == block:
                    continue
                for at in range(0, count - WINDOW + 1, WINDOW):
                    a, b = block[at : at + WINDOW], beside[at : at + WINDOW]
                    if a != b:
                        pairs = zip(decode(a), decode(b), strict=True)
                        if any(x != y and isfinite(x) and isfinite(y) for x, y in pairs):
                            return True
                        break
    return False
