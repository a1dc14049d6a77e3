"""Members that differ in shape or dtype and may be one tensor all the same: padded, transposed or cast.

Exporters pad the rows of one side to a multiple, converters from TensorFlow turn a matrix over, and quantisers and
mergers cast one side. Each is worth another sentence than "they differ".
"""

from __future__ import annotations

from importlib.util import find_spec
from math import isfinite
from typing import Any, Literal

from tiecheck.files.compare.distance import Decode, elements_array, number_decoder
from tiecheck.files.compare.equality import BLOCK, Constancy, compare_bytes, compare_opened, sample_offsets
from tiecheck.files.compare.spans import OpaqueError, Span, opened_members
from tiecheck.files.limits import byte_question
from tiecheck.files.local import TensorFiles
from tiecheck.records.stored import Checkpoint, Comparison, StoredTensor
from tiecheck.records.words import Unknown

SAMPLES = 64
"""Places that are looked at to guess a form."""

STRIP = 8 * 1024 * 1024
"""Bytes of one member that are held to look for them as columns of the other."""

_WIDTHS = {"float64": 3, "float32": 2, "float16": 1, "bfloat16": 1}
"""Float types, the wider ones with a higher number; of two alike either may have been cast to the other."""

Opened = tuple[StoredTensor, Span]
"""A tensor's dtype and shape, and its bytes, in a file or in memory."""

_CELLS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@byte_question
def compare_reshaped(
    checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool = False
) -> Comparison | Unknown | None:
    """Hold members that are not alike in dtype and shape against each other; `exact` counts every row that differs.

    Of members of different row counts the rows that all have are compared; others only where each is the transpose of
    the first, or a cast of it. None where there is no such form, or it could not be told (a pickle, no numpy).
    """
    if checkpoint.format == "pickle":
        return None
    try:
        if _row_bytes(tensors) is not None:
            return _padded(checkpoint, tensors, exact=exact)
        return _pairs(checkpoint, tensors)
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")


def compare_across(first: Opened, second: Opened, *, exact: bool = False) -> Comparison | None:
    """Hold two tensors of one shape, wherever they are, against each other: of two float types as one cast.

    None for two types of which neither is the other, cast. `exact` counts and measures every row that differs. What is
    not installed raises `OpaqueError`, a file too short `EOFError`.
    """
    (tensor, span), (other, beside) = first, second
    if tensor.dtype == other.dtype:
        return compare_opened([span, beside], tensor, exact=exact)
    if {tensor.dtype, other.dtype} <= set(_WIDTHS) and find_spec("numpy") is None:
        raise OpaqueError(f"{tensor.dtype} against {other.dtype} takes numpy, which is not installed")
    found = _cast(tensor, span, other, beside)
    if found is None:
        return None
    rows = tensor.shape[0] if tensor.shape else 1
    return Comparison(True, rows, 0, rows, None, None, False, form="cast", exact=found)


@byte_question
def compare_transposed(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> Comparison | None:
    """Compare square matrices, alike in dtype, each with the transpose of the first; None where one is not."""
    shape = tensors[0].shape
    if checkpoint.format == "pickle" or len(shape) != 2 or shape[0] != shape[1]:
        return None
    try:
        with opened_members(checkpoint, tensors) as spans:
            first, *others = zip(tensors, spans, strict=True)
            turned = all(_is_transpose(*first, *other) for other in others)
    except (OSError, EOFError):
        return None
    return Comparison(True, shape[0], 0, shape[0], None, None, False, form="transposed") if turned else None


def relation_in_words(found: Comparison) -> str:
    """Return a form, as the reason of a group says it."""
    if found.form == "transposed":
        return "one is the other transposed, byte for byte"
    if found.form == "cast":
        return "one is the other cast, element for element"
    more = f"{found.extra_rows:,} {'rows' if found.extra_rows > 1 else 'row'} more" + (
        " of one value" if found.extra_constant else ""
    )
    if found.equal:
        return f"one has {more}, and the {found.rows:,} rows that all have are equal"
    return f"one has {more}, and the {found.rows:,} rows that all have differ too"


def _row_bytes(tensors: tuple[StoredTensor, ...]) -> int | None:
    """Return the bytes of a row of members that differ in their rows alone."""
    first = tensors[0]
    if any(t.dtype != first.dtype or not t.shape or t.shape[1:] != first.shape[1:] or not t.nbytes for t in tensors):
        return None
    whole = all(t.nbytes % t.shape[0] == 0 for t in tensors)
    return first.nbytes // first.shape[0] if whole else None


def _padded(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...], *, exact: bool) -> Comparison | Unknown:
    """Compare the rows that all members have, and look at the rows behind them in the longest."""
    longest = max(tensors, key=lambda t: t.shape[0])
    rows, width = min(t.shape[0] for t in tensors), longest.nbytes // longest.shape[0]
    cut = tuple(t._replace(shape=(rows, *t.shape[1:]), nbytes=rows * width) for t in tensors)
    found = compare_bytes(checkpoint, cut, exact=exact)
    if isinstance(found, Unknown):
        return found
    extra = longest.shape[0] - rows
    rest = longest._replace(
        shape=(extra, *longest.shape[1:]), nbytes=extra * width, start=(longest.start or 0) + rows * width
    )
    with opened_members(checkpoint, (rest,)) as (span,):
        constant = Constancy(rest.nbytes, rest.shape)
        for offset in range(0, rest.nbytes, BLOCK):
            if not constant.holds:
                break
            constant.take(span.read(offset, min(BLOCK, rest.nbytes - offset)), offset)
    return found._replace(form="padded", extra_rows=extra, extra_constant=constant.holds)


def _pairs(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> Comparison | None:
    """Compare each member with the first, where all that are unlike it are so in one way."""
    forms: set[Literal["transposed", "cast"]] = set()
    exact = True
    first = tensors[0]
    for other in tensors[1:]:
        if (other.dtype, other.shape) == (first.dtype, first.shape):
            again = compare_bytes(checkpoint, (first, other))
            if isinstance(again, Unknown) or not again.equal:
                return None
            continue
        with opened_members(checkpoint, (first, other)) as (a, b):
            if first.dtype == other.dtype and _is_transpose(first, a, other, b):
                forms.add("transposed")
            elif first.shape == other.shape and (held := _cast(first, a, other, b)) is not None:
                forms.add("cast")
                exact &= held
            else:
                return None
    if len(forms) != 1:
        return None
    rows, exact = first.shape[0] if first.shape else 1, exact and forms == {"cast"}
    return Comparison(True, rows, 0, rows, None, None, False, form=forms.pop(), exact=exact)


def _is_transpose(first: StoredTensor, a: Span, second: StoredTensor, b: Span) -> bool:
    """Tell whether a matrix is another one turned over, byte for byte; a few elements first."""
    if len(first.shape) != 2 or first.shape[::-1] != second.shape or not first.nbytes:
        return False
    if first.shape[1] > first.shape[0]:  # whole rows of the one with short rows, pieces of rows of the other
        first, a, b = second, b, a
    rows, columns = first.shape
    size, odd = divmod(first.nbytes, rows * columns)
    if odd or size not in _CELLS:
        return False
    for i in range(SAMPLES):
        row, column = (rows - 1) * i // (SAMPLES - 1), (columns - 1) * (i * 29 % SAMPLES) // (SAMPLES - 1)
        if a.read((row * columns + column) * size, size) != b.read((column * rows + row) * size, size):
            return False
    step = max(1, STRIP // (columns * size))
    for row in range(0, rows, step):
        count = min(step, rows - row)
        cells = memoryview(a.read(row * columns * size, count * columns * size)).cast(_CELLS[size])  # type: ignore[call-overload]
        for column in range(columns):
            if cells[column::columns].tobytes() != b.read((column * rows + row) * size, count * size):
                return False
    return True


def _cast(first: StoredTensor, a: Span, second: StoredTensor, b: Span) -> bool | None:
    """Return whether two float tensors are equal in float32 too; None where neither is the other, rounded."""
    if not {first.dtype, second.dtype} <= set(_WIDTHS) or not first.nbytes or not _close(first, a, second, b):
        return None
    try:
        import numpy as np
    except ImportError:
        return None
    if _WIDTHS[first.dtype] < _WIDTHS[second.dtype]:
        first, a, second, b = second, b, first, a
    found = _rounds(np, first, a, second, b)
    if found is None and _WIDTHS[first.dtype] == _WIDTHS[second.dtype]:
        found = _rounds(np, second, b, first, a)
    return found


def _close(first: StoredTensor, a: Span, second: StoredTensor, b: Span) -> bool:
    """Tell whether a few elements are as near to each other as eight bits of mantissa let them be."""
    read_a, read_b = number_decoder(first.dtype), number_decoder(second.dtype)
    if read_a is None or read_b is None:
        return False
    elements = first.nbytes // _size(first)
    for i in range(SAMPLES):
        at = (elements - 1) * i // (SAMPLES - 1)
        (x,) = read_a(a.read(at * _size(first), _size(first)))
        (y,) = read_b(b.read(at * _size(second), _size(second)))
        if abs(x - y) > 2**-8 * abs(x) + 2**-24:  # NaN and infinity pass, for a closer look
            return False
    return True


def _size(tensor: StoredTensor) -> int:
    """Return the bytes of an element of a float type."""
    return {"float64": 8, "float32": 4}.get(tensor.dtype, 2)


def _rounds(np: Any, wide: StoredTensor, a: Span, narrow: StoredTensor, b: Span) -> bool | None:
    """Return whether a wide tensor rounds to a narrow one without a loss; None where it does not round to it.

    torch casts through float32, in which what is lost is looked for.
    """
    exact = True
    sizes = _size(wide), _size(narrow)
    elements = wide.nbytes // sizes[0]
    step = BLOCK // sizes[0]
    for at in range(0, elements, step):
        count = min(step, elements - at)
        values = elements_array(np, wide.dtype, a.read(at * sizes[0], count * sizes[0]))
        wanted = elements_array(np, narrow.dtype, b.read(at * sizes[1], count * sizes[1]))
        with np.errstate(all="ignore"):
            values = values.astype("f4")
            rounded = _to_bfloat16(np, values) if narrow.dtype == "bfloat16" else values.astype(wanted.dtype)
        if not ((rounded == wanted) | (np.isnan(rounded) & np.isnan(wanted))).all():
            return None
        exact = exact and bool((values == wanted).all())
    return exact


def _to_bfloat16(np: Any, values: Any) -> Any:
    """Float32 rounded to the nearest with 16 bits, ties to even, still as float32."""
    bits = values.view("u4")
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype("u4").view("f4")
    return np.where(np.isnan(values), values, rounded)


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
