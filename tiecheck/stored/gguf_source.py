"""Embedding and head of a GGUF file, held against the checkpoint that it was converted from.

llama.cpp's converter writes both as they are (`token_embd`, `output`), rows in their order; quantised blocks are
dequantised by the library `gguf` (0.19, `gguf.quants.dequantize`). A row is another one where rounding to its type does
not explain the angle between the two: a factor over all of a matrix, as some converters write it, is none.
"""

from __future__ import annotations

import re
from typing import Any

from tiecheck.errors import MissingExtraError
from tiecheck.files.compare.distance import elements_array
from tiecheck.files.compare.spans import OpaqueError, Span, opened_members
from tiecheck.files.limits import target_account
from tiecheck.records.artefacts import Conversion, Gguf, GgufSource, GgufTie, RowFit
from tiecheck.records.stored import Checkpoint, StoredTensor
from tiecheck.records.words import Unknown
from tiecheck.stored.gguf_ties import EMBEDDING, HEAD

PLAIN = {"float32": 0.01, "float16": 0.01, "bfloat16": 0.01, "float64": 0.01}
"""Types that keep numbers -> the angle, in radians, that rounding to one of them explains, with room to spare."""

ELEMENTS = 1 << 20
"""Elements of each matrix that are looked at at a time."""

BLOCK = 32
"""Elements of a quantised type that have one scale, at most; those of K types have 16 or 32."""


def compare_conversion(gguf: Gguf, tie: GgufTie | None, source: GgufSource) -> Conversion | Unknown:
    """Hold embedding and head of a file against those of its source.

    Raises:
        MissingExtraError: numpy, or gguf for quantised blocks, is not installed.
        TargetError: A file is not there any more.
    """
    held = {tensor.name: tensor for tensor in tie.group.tensors} if tie is not None else {}
    if EMBEDDING not in held:
        return Unknown(f"a {gguf.architecture} file has no head to be compared")
    theirs = {EMBEDDING: source.embedding, HEAD: source.head}
    found: dict[str, RowFit] = {}
    for name, ours in held.items():
        fit = _fit((gguf.checkpoint, ours), (source.checkpoint, theirs[name]))
        if isinstance(fit, Unknown):
            return fit
        found[name] = fit
    return Conversion(source, found[EMBEDDING], found.get(HEAD))


def _fit(ours: tuple[Checkpoint, StoredTensor], theirs: tuple[Checkpoint, StoredTensor]) -> RowFit | Unknown:
    """Hold two matrices against each other, over the rows that both have."""
    one, other = ours[1], theirs[1]
    if other.dtype not in PLAIN:
        return Unknown(f"{other.name} of the source is stored as {other.dtype}, which is not compared with a GGUF file")
    if len(one.shape) != 2 or len(other.shape) != 2 or one.shape[1] != other.shape[1]:
        return Unknown(f"{one.name} {list(one.shape)} and {other.name} {list(other.shape)} are not of one width")
    numpy, decode = _decoder(one.dtype)
    rows, width = min(one.shape[0], other.shape[0]), one.shape[1]
    step, differ, first = max(1, ELEMENTS // max(width, 1)), 0, None
    try:
        with opened_members(ours[0], (one,)) as (a,), opened_members(theirs[0], (other,)) as (b,):
            for row in range(0, rows, step):
                target_account().check_time()
                count = min(step, rows - row)
                left = decode(_rows(a, one, row, count)).reshape(count, width)
                right = elements_array(numpy, other.dtype, _rows(b, other, row, count)).reshape(count, width)
                apart = _apart(numpy, left.astype("f8"), right.astype("f8"), one.dtype)
                differ += int(apart.sum())
                if first is None and apart.any():
                    first = row + int(apart.argmax())
    except OpaqueError as error:
        return Unknown(str(error))
    except (OSError, EOFError, NotImplementedError) as error:
        return Unknown(f"{one.name} cannot be compared: {error}")
    return RowFit(rows, differ, first)


def _rows(span: Span, tensor: StoredTensor, row: int, count: int) -> bytes:
    width = tensor.nbytes // tensor.shape[0]
    return span.read(row * width, count * width)


def _decoder(dtype: str) -> tuple[Any, Any]:
    """Return numpy, and what makes numbers of the bytes of a GGUF type.

    Raises:
        MissingExtraError: One of the two libraries is not installed.
    """
    try:
        import numpy as np

        if dtype in PLAIN:
            return np, lambda raw: elements_array(np, dtype, raw)
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise MissingExtraError("--from", "gguf") from error
    kind = GGMLQuantizationType[dtype.upper()]
    return np, lambda raw: dequantize(np.frombuffer(raw, "u1"), kind)


def _apart(numpy: Any, ours: Any, theirs: Any, dtype: str) -> Any:
    """Tell of each row whether its angle to the other one is more than rounding explains.

    A block of n elements whose largest is m is rounded by m / 2^bits each at most; three times as much is allowed, for
    types with uneven steps and for quantisers that weigh their elements.
    """
    norms = [numpy.linalg.norm(rows, axis=1) for rows in (ours, theirs)]
    both = numpy.where(norms[0] * norms[1] > 0, norms[0] * norms[1], 1.0)
    cosine = numpy.where(norms[0] * norms[1] > 0, (ours * theirs).sum(axis=1) / both, norms[0] == norms[1])
    angle = numpy.sqrt(2 * numpy.clip(1 - cosine, 0, None))
    if dtype in PLAIN:
        return angle > PLAIN[dtype]
    bits = int(re.search(r"\d", dtype)[0])  # type: ignore[index]  # every quantised type is named by its bits
    width = theirs.shape[1] - theirs.shape[1] % BLOCK
    largest = numpy.abs(theirs[:, :width]).reshape(len(theirs), -1, BLOCK).max(axis=2)
    step = numpy.sqrt(BLOCK * (largest**2).sum(axis=1)) / numpy.where(norms[1] > 0, norms[1], 1.0)
    return angle > numpy.minimum(3 * step / 2**bits, 1.2)
