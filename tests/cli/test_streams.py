"""The end of a command: one exit status and one sentence, whatever was raised or written to."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiecheck.cli.streams import ClosedStream, run_to_exit_status
from tiecheck.errors import Terminated

RESTS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTROLS = "\x1b[31m\x07\u202e"


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], None]:
    def command() -> None:
        raise error from cause

    return command


@pytest.mark.parametrize(
    ("error", "cause", "status", "told"),
    [
        (click.UsageError("no such option"), None, 2, "no such option"),
        (click.ClickException("cannot"), None, 1, "Error: cannot"),
        (click.Abort(), KeyboardInterrupt(), 130, "Error: interrupted"),
        (click.Abort(), Terminated(), 143, "Error: terminated"),
        (OSError(errno.ENOSPC, "No space left", "out.json"), None, 2, "out.json cannot be used: No space left"),
        (OSError(errno.ENOSPC, "No space left"), None, 2, "standard output cannot be used: No space left"),
        (ZeroDivisionError("by zero"), None, 2, "tiecheck itself failed, please report it: ZeroDivisionError: by zero"),
    ],
    ids=["usage", "click", "interrupt", "terminated", "file", "output", "ours"],
)
def test_an_error_is_one_sentence_and_a_status(capfd, error, cause, status: int, told: str) -> None:
    assert run_to_exit_status(raising(error, cause)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert told in err
    assert "Traceback" not in err


@RESTS
@given(code=st.one_of(st.integers(0, 255), st.none(), st.text(max_size=3)))
def test_what_a_command_returns_or_exits_with_is_the_status(code: object) -> None:
    wanted = code if isinstance(code, int) else 0
    assert run_to_exit_status(lambda: code) == wanted
    assert run_to_exit_status(raising(SystemExit(code))) == wanted


@RESTS
@given(words=st.text(max_size=20))
def test_the_words_of_an_error_steer_no_terminal(capfd, words: str) -> None:
    for error in (click.UsageError(words + CONTROLS), RuntimeError(words + CONTROLS), OSError(5, words + CONTROLS)):
        assert run_to_exit_status(raising(error)) == 2
        err = capfd.readouterr().err
        assert not set(CONTROLS) - set("[31m") & set(err)


def test_an_output_that_was_closed_before_is_told(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedStream())
    assert run_to_exit_status(lambda: print("report")) == 2
    assert "standard output cannot be used: it is closed" in capfd.readouterr().err
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_to_exit_status(lambda: print("report")) == 0
