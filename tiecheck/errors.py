"""Errors that are no finding: each one a sentence a user can act on, exit status 2."""

from __future__ import annotations

from collections.abc import Iterable


class TiecheckError(Exception):
    """Base of every error tiecheck raises on purpose. The message names the file and the cause."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class TargetError(TiecheckError):
    """The target cannot be read as a model: missing, empty, broken, or of a kind that is not supported."""


class UsageError(TiecheckError):
    """An option is wrong: an unknown rule code, an unknown format."""


class MissingExtraError(TiecheckError):
    """A library of an optional extra, or of a store that fsspec reads, is needed and not installed."""

    def __init__(self, what: str, extra: str | None = None, *, package: str | None = None) -> None:
        if extra is None:
            super().__init__(f"{what} needs another package: pip install {package}")
        else:
            super().__init__(f"{what} needs an optional part of tiecheck: pip install 'tiecheck[{extra}]'")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the word that was meant, or all there are, as the end of a sentence."""
    import difflib

    known = {other.replace("_", "-"): other for other in words}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), known, n=1)
    return f"; did you mean {known[near[0]]!r}?" if near else f"; there are {', '.join(known.values())}"
