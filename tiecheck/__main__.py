"""`python -m tiecheck` and the console script."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` makes enumerations of it: a hundredth of a start
import contextlib
import gc
import os
import sys
from types import FrameType

from tiecheck.errors import Terminated

YOUNG = 100_000
"""Objects that are made before the garbage collector looks at them: with its 700 a tenth of a start is spent on it."""

TICK = 0.5
"""Seconds after which the time that a target has taken is looked at."""

STOPPED = (130, 143)
"""Exit statuses of a process that SIGINT or SIGTERM has ended."""

CALLERS = 4
"""Frames at most from `run_process` up in a process of its own: the module's, and two of `python -m`. Under more
somebody may go on with the process: a profiler, a debugger, a test."""


def run_process() -> None:
    """Run the command line as a process of its own, which ends without being taken apart: a thirtieth of a start."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            _leave(end.code)
        raise


def _leave(status: int) -> None:
    """End the process at once where nothing is lost by it: neither threads, nor what a library does at its end."""
    import threading

    try:
        sys._getframe(CALLERS + 1)
    except ValueError:
        if "torch" not in sys.modules and threading.active_count() == 1:
            import atexit

            atexit._run_exitfuncs()
            with contextlib.suppress(OSError, ValueError):  # the interpreter tells of it
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
                os._exit(status)


def main() -> None:
    """Run the command line; an interrupt ends it at once, whatever threads are still waiting for a server."""
    gc.set_threshold(YOUNG)
    _hold_descriptors()
    signal.signal(signal.SIGTERM, _terminate)
    if hasattr(signal, "setitimer"):  # a build, a load and a forward pass are foreign code, which asks for no time
        signal.signal(signal.SIGALRM, _look_at_the_time)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        from tiecheck.cli.main import cli

        cli.main(prog_name="tiecheck")
    except SystemExit as end:
        if end.code not in STOPPED:
            raise
        os._exit(end.code)
    except KeyboardInterrupt as stop:  # while the command line itself was imported
        os._exit(143 if isinstance(stop, Terminated) else 130)
    finally:
        if hasattr(signal, "setitimer"):  # the interpreter's end takes the handler first, and the next tick would kill
            signal.setitimer(signal.ITIMER_REAL, 0)
        gc.freeze()  # else the interpreter's last collections go through everything: a seventh of a start


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """Unwind as an interrupt does, so that temporary folders are removed."""
    raise Terminated


def _look_at_the_time(_number: int, frame: FrameType | None) -> None:
    """Stop the target that is being read where its seconds are over; not amid an import, which leaves ruins behind."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return
        frame = frame.f_back
    limits = sys.modules.get("tiecheck.files.limits")
    if limits is not None and hasattr(limits, "target_account"):  # else nothing is read yet
        limits.target_account().check_time()


def _hold_descriptors() -> None:
    """Open the standard descriptors that were closed: else the next file gets the number, and foreign code's output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        from tiecheck.cli.streams import ClosedStream

        sys.stdout = ClosedStream()


if __name__ == "__main__":
    run_process()
