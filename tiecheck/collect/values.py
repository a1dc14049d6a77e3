"""Are the stored members of a group equal? Byte by byte, in bounded memory, and as early as it can be told.

Sixty-four sampled blocks find almost every difference at once; only equality needs the whole of it. `pread`
and no map: a file that is truncated under a map kills the process. Where the members differ, the rows that do
are counted, since "only the added tokens' rows" is another story than "all of them".
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from tiecheck.collect.files import inside
from tiecheck.facts import Checkpoint, Comparison, StoredTensor, Unknown

BLOCK = 256 * 1024
"""Bytes read at a time from each member."""

SAMPLES = 64
SAMPLE = 4096
"""How many blocks are looked at first, and their bytes."""

ROW_BUDGET = 1 << 30
"""Bytes of a member whose differing rows are counted; beyond it the count is "of the first so many rows"."""


class _Span(NamedTuple):
    """One member's bytes in an open file."""

    fd: int
    start: int


def compare(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> Comparison | Unknown:
    """Hold the bytes of some stored tensors of one dtype and shape against each other.

    Equality of bytes is stricter than `torch.equal` for +0 and -0, and looser for NaN.

    Args:
        checkpoint: Where they are stored.
        tensors: Two or more, alike in dtype and shape.

    Returns:
        The comparison, or why it could not be made (a file that changed or cannot be read).
    """
    if checkpoint.format == "pickle":
        return _compare_pickled(checkpoint, tensors)
    fds: dict[str, int] = {}
    try:
        spans = []
        for tensor in tensors:
            if tensor.file not in fds:
                fds[tensor.file] = os.open(
                    inside(checkpoint.root, tensor.file), os.O_RDONLY | getattr(os, "O_BINARY", 0)
                )
            spans.append(_Span(fds[tensor.file], tensor.start or 0))
        return _compare_spans(spans, tensors[0])
    except (OSError, EOFError) as error:
        return Unknown(f"the bytes of {tensors[0].name} cannot be read: {error}")
    finally:
        for fd in fds.values():
            os.close(fd)


def _compare_spans(spans: list[_Span], tensor: StoredTensor) -> Comparison:
    nbytes = tensor.nbytes
    rows = tensor.shape[0] if tensor.shape else 1
    constant = True
    equal = True
    for offset in _sample_offsets(nbytes):
        blocks = [_read(span, offset, min(SAMPLE, nbytes - offset)) for span in spans]
        constant = constant and _is_constant(blocks[0], nbytes // max(1, _elements(tensor)))
        if any(block != blocks[0] for block in blocks[1:]):
            equal = False
            break
    if equal:
        equal = all(_equal_blocks(spans, offset, min(BLOCK, nbytes - offset)) for offset in range(0, nbytes, BLOCK))
    if equal:
        return Comparison(True, rows, 0, rows, None, None, constant)
    return _count_rows(spans, tensor, rows)


def _elements(tensor: StoredTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _sample_offsets(nbytes: int) -> Iterator[int]:
    """Offsets spread evenly over a tensor, its beginning and its end among them."""
    if nbytes <= SAMPLE * SAMPLES:
        yield from range(0, nbytes, SAMPLE)
        return
    last = (nbytes - SAMPLE) // SAMPLE * SAMPLE
    for i in range(SAMPLES):
        yield last * i // (SAMPLES - 1) // SAMPLE * SAMPLE


def _is_constant(block: bytes, width: int) -> bool:
    """Whether a block repeats its first element, of `width` bytes."""
    return width > 0 and block == block[:width] * (len(block) // width)


def _read(span: _Span, offset: int, count: int) -> bytes:
    data = os.pread(span.fd, count, span.start + offset)
    if len(data) != count:
        message = "the file ends too early; was it changed meanwhile?"
        raise EOFError(message)
    return data


def _equal_blocks(spans: list[_Span], offset: int, count: int) -> bool:
    first = _read(spans[0], offset, count)
    return all(_read(span, offset, count) == first for span in spans[1:])


def _count_rows(spans: list[_Span], tensor: StoredTensor, rows: int) -> Comparison:
    """Which rows differ; a row differs where any member's does from the first member's."""
    if rows == 0 or tensor.nbytes % rows:
        return Comparison(False, rows, None, 0, None, None, False)
    width = tensor.nbytes // rows
    step = max(1, BLOCK // width)
    limit = min(rows, max(step, ROW_BUDGET // width))
    differ, first, last = 0, None, None
    for start in range(0, limit, step):
        count = min(step, limit - start)
        blocks = [_read(span, start * width, count * width) for span in spans]
        if all(block == blocks[0] for block in blocks[1:]):
            continue
        for i in range(count):
            row = slice(i * width, (i + 1) * width)
            if any(block[row] != blocks[0][row] for block in blocks[1:]):
                differ += 1
                first = start + i if first is None else first
                last = start + i
    return Comparison(False, rows, differ, limit, first, last, False)


def _compare_pickled(checkpoint: Checkpoint, tensors: tuple[StoredTensor, ...]) -> Comparison | Unknown:
    """The same for pickles, whose elements torch has to find; a byte view keeps NaN comparable."""
    import torch

    from tiecheck.collect.pickles import load_tensors

    files = {t.file: load_tensors(inside(checkpoint.root, t.file)) for t in tensors}
    views = []
    for tensor in tensors:
        value = files[tensor.file][tensor.name].detach().contiguous()
        rows = value.shape[0] if value.dim() else 1
        views.append(value.reshape(rows, -1).view(torch.uint8) if value.numel() else value.reshape(rows, 0))
    rows = int(views[0].shape[0])
    differ = torch.zeros(rows, dtype=torch.bool)
    for view in views[1:]:
        differ |= (view != views[0]).any(dim=1)
    where = differ.nonzero().flatten().tolist()
    flat = files[tensors[0].file][tensors[0].name].flatten()
    constant = bool(flat.numel()) and bool((flat == flat[0]).all())
    if not where:
        return Comparison(True, rows, 0, rows, None, None, constant)
    return Comparison(False, rows, len(where), rows, where[0], where[-1], False)
