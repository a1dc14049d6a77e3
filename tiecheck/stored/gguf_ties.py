"""Embedding and head of a GGUF file, under the names that llama.cpp gives them."""

from __future__ import annotations

import re
from typing import Any, cast, get_args

from tiecheck.errors import MissingExtraError
from tiecheck.files.compare.distance import elements_array
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.spans import OpaqueError, Span, opened_members
from tiecheck.files.limits import target_account
from tiecheck.records.artefacts import Conversion, Gguf, GgufSource, GgufTie, HeadUse, RowFit
from tiecheck.records.stored import Checkpoint, Comparison, Group, StoredTensor
from tiecheck.records.words import Kind, Unknown
from tiecheck.wording import with_article

HEAD, EMBEDDING = "output.weight", "token_embd.weight"
SAYS = {
    "required": "output.weight has to be there",
    "fallback": "token_embd.weight stands in for an absent output.weight",
    "embedding": "token_embd.weight is the head",
}


def read_gguf_tie(gguf: Gguf, use: str, *, values: bool) -> GgufTie | Unknown | None:
    """Return the tie of a GGUF file; None for an architecture without a head.

    Args:
        gguf: The file.
        use: The word of the engine table for its architecture, or `unknown:REASON`.
        values: True where tensor bytes may be read.
    """
    held = tuple(t for name in (HEAD, EMBEDDING) if (t := gguf.checkpoint.tensor(name)) is not None)
    stored = tuple(tensor.name for tensor in held)
    if gguf.kind != "model" or EMBEDDING not in stored:
        what = f"a GGUF file of type {gguf.kind}" if gguf.kind != "model" else f"GGUF tensors without {EMBEDDING}"
        return Unknown(f"{what} is no whole model, and holds no tie")
    if use == "none" and HEAD not in stored:
        return None
    word, _, why = use.partition(":")
    known = cast("HeadUse", word if word in get_args(HeadUse) else "unknown")
    found: Comparison | Unknown | None = None
    if len(held) == 2:
        found = Unknown("the bytes were not to be read (--values never)")
        if len({(t.dtype, t.shape) for t in held}) > 1:
            found = Unknown(f"{held[0].dtype} and {held[1].dtype} of one matrix are not alike byte by byte")
        elif values:
            found = compare_bytes(gguf.checkpoint, held)
    kind: Kind = "absent" if len(held) < 2 else "unknown" if not isinstance(found, Comparison) else "separate"
    if isinstance(found, Comparison) and found.equal:
        kind = "copy"
    tied = known in ("fallback", "embedding") if HEAD not in stored else False
    group = Group(
        names=(HEAD, EMBEDDING),
        source=EMBEDDING,
        declared=None if known == "unknown" else tied,
        declared_by=(f"llama.cpp's loader of {gguf.architecture}: {SAYS[known]}",) if known in SAYS else (),
        stored=kind,
        stored_names=stored,
        missing=() if HEAD in stored else (HEAD,),
        tensors=held,
        comparison=found if isinstance(found, Comparison) else None,
        reason=_unknown_loader(gguf.architecture, why) if known == "unknown" else None,
    )
    return GgufTie(group, known, found)


def _unknown_loader(architecture: str, why: str) -> str:
    """Tell why it is not known what llama.cpp's loader of an architecture does."""
    return why if architecture in why else f"llama.cpp's loader of {architecture}: {why or 'not known'}"


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
        return Unknown(f"{with_article(gguf.architecture)} file has no head to be compared")
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
