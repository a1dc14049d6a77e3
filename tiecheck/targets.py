"""From what the user typed to a Target. Parses only; no weight is read and no code is run here."""

import os
import re
from typing import Literal, NamedTuple

from tiecheck.errors import TargetError

TargetType = Literal["checkpoint", "module", "source", "adapter", "gguf", "onnx"]

NEIGHBOURS = 2_000
"""Names of a folder among which the one that was meant is looked for."""

FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
ATTRIBUTE = re.compile(r"(?P<place>.+):(?P<attribute>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Target(NamedTuple):
    """What is to be checked."""

    text: str
    """As the user wrote it, which is how the report calls it."""
    type: TargetType
    """What kind of thing it is."""
    path: str
    """Directory or file (`checkpoint`), source file or dotted module (`module`)."""
    attribute: str | None
    """The attribute to build (`module`)."""

    @property
    def directory(self) -> str | None:
        """The model directory, where the target is one."""
        return self.path if self.type == "checkpoint" and os.path.isdir(self.path) else None


def parse_target(text: str) -> Target:
    """Tell what a TARGET argument means. A plain existing path always wins.

    Args:
        text: A model directory, a weights file, an index, `package.module:attribute` or `file.py:attribute`.

    Raises:
        TargetError: There is no such thing, or this version does not read that kind.
    """
    if _exists(text):
        return _directory(text) if os.path.isdir(text) else _file(text)
    if os.path.islink(text):
        raise TargetError(f"{text} is a link that leads nowhere, to {os.readlink(text)}", text)
    if "://" in text:
        raise TargetError(
            f"{text}: remote models are not read by this version; download it and name the directory", text
        )
    match = ATTRIBUTE.fullmatch(text)
    if match:
        place, attribute = match["place"], match["attribute"]
        if place.endswith(".py"):
            if not _exists(place):
                raise TargetError(_missing(place), place)
            return Target(text, "module", place, attribute)
        if MODULE.fullmatch(place):
            return Target(text, "module", place, attribute)
    raise TargetError(_missing(text), text)


def _exists(text: str) -> bool:
    """Whether there is such a path; an empty word, or a path that cannot be looked at, is told at once."""
    if not text:
        raise TargetError("a TARGET is empty; give a model directory, a weights file or module:attribute", text)
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # no permission, a loop of links, a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise TargetError(f"{text} cannot be looked at: {why}", text) from error
    return True


def _directory(text: str) -> Target:
    try:
        names = os.listdir(text)
    except OSError as error:
        raise TargetError(f"{text} cannot be listed: {error.strerror or error}", text) from error
    if not names:
        raise TargetError(f"{text} is an empty directory", text)
    if "config.json" in names or any(name.endswith(FILE_ENDINGS) for name in names):
        return Target(text, "checkpoint", text, None)
    if any(os.path.isfile(os.path.join(text, name, "config.json")) for name in names):
        raise TargetError(f"{text} holds models in folders of its own; name them, e.g. {text.rstrip('/')}/*", text)
    raise TargetError(f"{text} holds no config.json and no weights that are known by their ending", text)


def _file(text: str) -> Target:
    if text.endswith(".py"):
        raise TargetError(f"{text} is source; to build a model from it write {text}:NAME (that runs the file)", text)
    if os.path.basename(text) == "config.json":
        raise TargetError(f"{text} is a config alone; name its directory", text)
    return Target(text, "checkpoint", text, None)


def _missing(text: str) -> str:
    """What to say of something that is not there, with the nearest thing that is."""
    import difflib

    parent, name = os.path.split(text.rstrip("/"))
    try:
        neighbours = os.listdir(parent or ".")
    except OSError:
        neighbours = []
    near = difflib.get_close_matches(name, neighbours[:NEIGHBOURS], n=1)
    hint = f"; did you mean {os.path.join(parent, near[0])}?" if near else ""
    if not hint and re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not os.path.isdir(parent):
        hint = "; if it is a hub model: those are not read by this version, download it and name the directory"
    return f"there is no {text}{hint}"
