"""Lines of manifests and tables, each of a bounded length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from tiecheck.errors import TargetError
from tiecheck.files.local import open_regular

MANIFESTS = (".txt", ".list", ".jsonl")
"""Ends of the names of files that list targets, one a line."""

LINE = 16 * 1024 * 1024
"""Bytes of one line of a manifest or a table that are read at most."""

COUNTED = 256 * 1024 * 1024
"""Bytes of a manifest up to which its lines are counted beforehand, for the progress."""


def read_lines(path: str) -> Iterator[bytes]:
    """Give the lines of a manifest or a table, each with its end, if it has one.

    Of a file that grows meanwhile, as a table that is source and results at once does, those that it had at first.
    What is no regular file, or has a line without end, is a `TargetError`; what cannot be read on is an `OSError`.
    """
    with os.fdopen(open_regular(path, path), "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (line := file.readline(LINE)):
            left -= len(line)
            if len(line) == LINE and line[-1:] != b"\n":
                raise TargetError(f"{path} has a line of more than {LINE:,} bytes, and none has so many", path)
            yield line


def count_lines(sources: Iterable[str]) -> int | None:
    """Return the lines of some manifests, as an estimate of their models; None where another source is among them."""
    total = 0
    for source in sources:
        if not source.endswith(MANIFESTS) or not os.path.isfile(source):
            return None
        try:
            if os.path.getsize(source) > COUNTED:
                return None
            with open(source, "rb") as file:
                blocks = iter(lambda: file.read(1 << 20), b"")
                total += sum(block.count(b"\n") for block in blocks)
        except OSError:
            return None
    return total
