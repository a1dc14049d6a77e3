"""Keeping standard output for the report while code that is not ours runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Standard output carries the report alone: what a model's code prints goes to standard error.

    The descriptor is turned as well, for what is written past `sys.stdout` (C code, child processes).
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed stream, or one that is no file
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            saved = os.dup(1)
            stack.callback(os.close, saved)
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
