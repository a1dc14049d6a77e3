"""Errors that are no finding: each one a sentence a user can act on, exit status 2."""

from __future__ import annotations

from collections.abc import Iterable


class TiecheckError(Exception):
    """Base of every error tiecheck raises on purpose. The message names the file and the cause."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(shown(message))
        self.path = path


SHOWN = 400
"""Characters of a word in a message, and of four of them a message has at most: a name in a file has no end."""


def shown(text: str) -> str:
    """Return a text as it may be printed: long words and lists cut in the middle, control characters escaped."""
    if len(text) > SHOWN:
        words = [word if len(word) <= SHOWN else f"{word[:200]}...{word[-40:]}" for word in text.split(" ")]
        text = " ".join(words)
        text = text if len(text) <= 4 * SHOWN else f"{text[: 3 * SHOWN]}...{text[-SHOWN // 2 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


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
