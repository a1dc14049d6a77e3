"""Questions that are asked of the bytes of tensors: what a verdict hangs on beside names, config and headers.

Each is noted in the account of its target with its answer, so that it can be asked of another directory that is alike
in all else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from tiecheck.files.limits import current
from tiecheck.records.stored import Checkpoint

P = ParamSpec("P")
T = TypeVar("T")


class ByteQuestion(NamedTuple):
    """A question that was asked."""

    ask: Callable[..., Any]
    """The function; its first argument is the checkpoint."""
    args: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    answer: Any


def byte_question(ask: Callable[Concatenate[Checkpoint, P], T]) -> Callable[Concatenate[Checkpoint, P], T]:
    """Mark a function whose answer follows from its arguments and from bytes of the checkpoint's files alone."""

    @functools.wraps(ask)
    def asked(checkpoint: Checkpoint, *args: P.args, **named: P.kwargs) -> T:
        account = current.get()
        if account is None or account.asking:
            return ask(checkpoint, *args, **named)
        account.asking = True
        answer: Any = None
        try:
            answer = ask(checkpoint, *args, **named)
        finally:
            account.asking = False
            account.questions.append(ByteQuestion(ask, args, tuple(named.items()), answer))
        return answer  # type: ignore[no-any-return]

    return asked  # type: ignore[return-value]  # the first argument has no name to a type checker
