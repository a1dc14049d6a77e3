"""Finds the line of the user's own code that a call came from, past torch, other libraries and tiecheck."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import sysconfig
from functools import lru_cache
from types import FrameType

from tiecheck.records.life import UserLine

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})
"""Where installed packages and Python's own modules lie."""


@lru_cache(4096)
def _rank(path: str) -> int:
    """Return 0 for a file of the user's, 1 for an installed package, 2 for torch, for us, and for no file at all."""
    if path.startswith(("<frozen", "<eval_with_key", OURS + os.sep)):
        return 2
    folders = path.split(os.sep)
    if "site-packages" in folders or "dist-packages" in folders:
        return 2 if "torch" in folders else 1
    return 1 if path.startswith(LIBRARIES) else 0


def user_line(frame: FrameType | None = None, *, did: str = "") -> UserLine:
    """Return the nearest line of the user's code above a frame, by default the caller's; or the nearest not torch's.

    `did` tells what was done there, in case the user's line did it without a call: an assignment.
    """
    called = ""
    best: tuple[int, FrameType, str] | None = None
    at: FrameType | None = frame if frame is not None else sys._getframe(1)
    while at is not None:
        rank = _rank(at.f_code.co_filename)
        if best is None or rank < best[0]:
            best = rank, at, called
        if rank == 0:
            break
        if at.f_code.co_filename != contextlib.__file__ and (rank < 2 or _is_torch(at)):
            called = at.f_code.co_qualname
        at = at.f_back
    assert best is not None  # noqa: S101  # a frame was given
    _, found, operation = best
    path, line = found.f_code.co_filename, found.f_lineno
    assigned = operation.rpartition(".")[2] in ("__setattr__", "register_parameter", "__setitem__", "")
    code = linecache.getline(path, line).strip()
    return UserLine(
        path, line, code, did if assigned and did else operation or did, bool(code) and os.path.isfile(path)
    )


def _is_torch(frame: FrameType) -> bool:
    """Return True if a frame is code of torch's, our own wrappers around it left out."""
    return not frame.f_code.co_filename.startswith((OURS, "<"))
