"""Errors that are no finding: each one a sentence a user can act on, exit status 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

MESSAGE = 300
"""Characters that are shown of what foreign code says of its failure."""


class TiecheckError(Exception):
    """Base of every error tiecheck raises on purpose. The message names the file and the cause."""

    lines = False
    """True where a message of ours has several lines; elsewhere a line break is part of a name, and is escaped."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__("\n".join(shown(line) for line in message.split("\n")) if self.lines else shown(message))
        self.path = path


SHOWN = 400
"""Characters of a word in a message, and of four of them a message has at most: a name in a file has no end."""

ADDRESS = r"(?<=')[^']*://[^']*(?=')|(?<![^\s'])[^\s']*://(?:[^'\n]{0,200}@)?[^\s']*"
"""An address in a message: all between quotes, where it stands in quotes, since a password may hold a blank."""


def shown(text: str) -> str:
    """Return a text as it may be printed: no secrets of addresses, long words cut, control characters escaped."""
    if len(text) > 10 * SHOWN:
        text = f"{text[: 8 * SHOWN]}...{text[-SHOWN:]}"
    if "://" in text:
        import re

        text = re.sub(ADDRESS, lambda found: without_secrets(found[0]), text)
    if len(text) > SHOWN:
        words = [word if len(word) <= SHOWN else f"{word[:200]}...{word[-40:]}" for word in text.split(" ")]
        text = " ".join(words)
        text = text if len(text) <= 4 * SHOWN else f"{text[: 3 * SHOWN]}...{text[-SHOWN // 2 :]}"
    return escaped(text)


def escaped(text: str) -> str:
    """Escape every control character of a text: a tensor's name may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def without_secrets(address: str) -> str:
    """An address without the user, the password and the query (signatures, tokens) that it may hold.

    Text that is no address comes back as it is.
    """
    import re

    if "://" not in address:
        return address
    parts = re.split(r"::(?![^\[\]]*\])", address)  # an IPv6 host has colons in brackets
    if len(parts) > 1:
        return "::".join(without_secrets(part) if "://" in part else _bare(part) for part in parts)
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() != "hf":  # there an @ begins the revision
        port = host.partition(":")[2]
        if "@" in path and not host.startswith("[") and port and not port.isdecimal() and "@" not in host:
            host, slash, path = path.rpartition("@")[2].partition("/")  # a password with a slash in it
        host = host.rpartition("@")[2]
    return f"{scheme}{mark}{re.split('[?#]', f'{host}{slash}{path}')[0]}"


def _bare(part: str) -> str:
    """Return a part of a chain that has no scheme, without the same."""
    import re

    return re.split("[?#]", part)[0].rpartition("@")[2]


class TargetError(TiecheckError):
    """The target cannot be read as a model: missing, empty, broken, or of a kind that is not supported."""


class UsageError(TiecheckError):
    """An option is wrong: an unknown rule code, an unknown format."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: whatever lets an interrupt through lets this through."""


class OutOfTimeError(BaseException):
    """The target has taken its seconds. No `Exception`, so that whoever asks runs into no handler on the way up."""


class MissingExtraError(TiecheckError):
    """A library of an optional extra, or of a store that fsspec reads, is needed and not installed."""

    def __init__(self, what: str, extra: str | None = None, *, package: str | None = None) -> None:
        if extra is None:
            super().__init__(f"{what} needs another package: pip install {package}")
        else:
            super().__init__(f"{what} needs an optional part of tiecheck: pip install 'tiecheck[{extra}]'")


@contextlib.contextmanager
def foreign_errors(what: str, *, own: str | None = None) -> Iterator[None]:
    """Turn whatever foreign code raises, `sys.exit` included, into one `TargetError`; an interrupt stays what it is.

    Its sentence begins with `what`, then `raised ValueError: its message`. Exceptions of a module of ours (`own`) are
    meant for the caller.
    """
    try:
        yield
    except (TiecheckError, KeyboardInterrupt, OutOfTimeError, GeneratorExit):
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if own is not None and trace is not None and trace.tb_frame.f_globals.get("__name__") == own:
            raise
        raise TargetError(f"{what} raised {exception_line(error)}") from error


def exception_line(error: BaseException) -> str:
    """Return an exception's class and its own words, in one line; a class may fail even at giving them."""
    name = class_word(type(error))
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  # foreign code
        return name
    return f"{name}: {text[:MESSAGE]}" if text else name


def class_word(cls: type) -> str:
    """Return the name of a class, past whatever its metaclass makes of it."""
    name: str = type.__dict__["__name__"].__get__(cls)
    return name


def near_words(word: str, words: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the words that may have been meant by one that is none of them, the nearest first."""
    import difflib

    known = {other.lower().replace("_", "-"): other for other in words}
    return [known[near] for near in difflib.get_close_matches(word.lower().replace("_", "-"), known, n, cutoff)]


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the word that was meant, or all there are, as the end of a sentence."""
    known = tuple(words)
    near = near_words(word, known)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
