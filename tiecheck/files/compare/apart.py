"""Stored members that surely differ, told by a few numbers: less than the count of rows that a finding wants."""

from __future__ import annotations

from math import isfinite

from tiecheck.files.compare.distance import Decode, number_decoder
from tiecheck.files.compare.equality import sample_offsets
from tiecheck.files.local import TensorFiles
from tiecheck.records.stored import Checkpoint, StoredTensor

WINDOW = 16
"""Bytes of which numbers are made at once: whole elements of every type."""


def surely_apart(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> bool:
    """Tell by samples whether some members, alike in dtype and shape, differ in a finite number and are not `alike`.

    A file that is gone is a `TargetError`, one that became too short an `EOFError`.
    """
    decode = number_decoder(tensors[0].dtype)
    if decode is None or checkpoint.format != "safetensors":
        return False
    first, *others = tensors
    with TensorFiles(checkpoint.root) as files:
        for offset in sample_offsets(first.nbytes):
            begin = offset - offset % WINDOW
            count = min(WINDOW, first.nbytes - begin)
            block = files.read(first, begin, count)
            for other in others:
                if (beside := files.read(other, begin, count)) != block and _apart(decode, block, beside):
                    return True
    return False


def _apart(decode: Decode, block: bytes, beside: bytes) -> bool:
    """Tell whether two blocks differ in a finite number."""
    return any(x != y and isfinite(x) and isfinite(y) for x, y in zip(decode(block), decode(beside), strict=True))
