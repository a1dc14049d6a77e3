"""The options of a placement, read the same way from the command line, a configuration file and a Python call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tiecheck.config.options import PLACING
from tiecheck.errors import UsageError
from tiecheck.placement.asked.maps import read_map
from tiecheck.placement.asked.memory import parse_memories, shown

FIELDS = tuple(field for field in PLACING if field != "device_map_from")
"""Those that somebody gives."""

DTYPES = (
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "int8",
    "uint8",
)
"""Element types that weights are loaded in, by torch's words."""

SHORT = {"half": "float16", "float": "float32", "double": "float64"}
"""Other words that torch has for them."""

MEANT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "f16": "float16", "f32": "float32", "fp8": DTYPES[4]}
"""Words that torch does not have -> what is meant."""

SEEDS = 256
"""Hash seeds at most: each is a process of its own, and what 256 of them do not show is rare."""


def read_placing(
    given: Mapping[str, Any], say: Callable[[str], str], *, text: bool, folder: str = ""
) -> dict[str, Any]:
    """The options of a placement that were given, as `Config` holds them.

    Args:
        given: Fields of `FIELDS` with what was written for them; None for what was not given.
        say: What to call a field in a message: `--max-memory`, `max_memory=`.
        text: Whether it was typed, so that digits are numbers.
        folder: What relative paths count from.

    Returns:
        The fields, and `device_map_from` where there is a map.

    Raises:
        UsageError: One of them is wrong; one sentence that names it.
    """
    found: dict[str, Any] = {}
    for field in FIELDS:
        value, place = given.get(field), say(field)
        if value is None:
            continue
        if field == "device_map":
            found[field], found["device_map_from"] = read_map(value, place, text=text, folder=folder)
        elif field == "max_memory":
            found[field] = parse_memories(_numbered(value) if text else value, place)
        else:
            found[field] = _READ[field](value, place)
    return found


def need_map(fields: Mapping[str, Any], given: Iterable[str], say: Callable[[str], str]) -> None:
    """Tell of options that say how to place where nothing is to be placed.

    Args:
        fields: The options as they count.
        given: The fields that somebody gave for this run.
        say: What to call a field in a message.

    Raises:
        UsageError: One of `FIELDS` was given, and there is no device map.
    """
    if fields.get("device_map") is None:
        for field in given:
            if field in FIELDS:
                raise UsageError(
                    f"{say(field)} says how to place a model, and nothing asks for it; give {say(FIELDS[0])} too"
                )


def _numbered(value: Any) -> Any:
    """A table of a configuration file with numbers for keys of digits, which TOML does not have."""
    from tiecheck.placement.asked.memory import number_of

    if not isinstance(value, Mapping):
        return value
    return {number_of(key) if isinstance(key, str) else key: size for key, size in value.items()}


def read_dtype(value: Any, place: str) -> str | None:
    """An element type by torch's word; None for `auto`, the one that the checkpoint has.

    Raises:
        UsageError: There is no such type.
    """
    word = str(value).removeprefix("torch.")
    word = SHORT.get(word, word)
    if word == "auto":
        return None
    if word not in DTYPES or isinstance(value, (bool, int, float)):
        import difflib

        near = [MEANT[word]] if word in MEANT else difflib.get_close_matches(word.lower(), DTYPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DTYPES)}"
        raise UsageError(f"{place}: {shown(value)} is no element type that weights are loaded in; {hint}")
    return word


def _no_split(value: Any, place: str) -> tuple[str, ...]:
    """Names of classes, as accelerate compares them: without the module that they are from."""
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, Iterable) or isinstance(words, (bytes, Mapping)):
        raise UsageError(f"{place} must be names of classes, as LlamaDecoderLayer, not {shown(value)}")
    words = tuple(words)
    for word in words:
        if not isinstance(word, str) or not word.isidentifier():
            last = word.rpartition(".")[2] if isinstance(word, str) else ""
            hint = f"write {last}" if last.isidentifier() else "write it as LlamaDecoderLayer"
            raise UsageError(f"{place}: {shown(word)} is no name of a class; {hint}")
    return words


def _seeds(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= SEEDS:
        raise UsageError(f"{place} must be a number of hash seeds from 0 to {SEEDS}, not {shown(value)}")
    return value


def _checkpoint(value: Any, place: str) -> str:
    """A checkpoint that is here: accelerate reads files and folders alone."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{place} must be the path of a checkpoint, not {shown(value)}")
    path = os.fspath(value)
    if not os.path.exists(path):
        raise UsageError(f"{place}: there is no {shown(path)}; accelerate loads a file or a folder that is here")
    return path


_READ: dict[str, Callable[[Any, str], Any]] = {
    "dtype": read_dtype,
    "no_split": _no_split,
    "hash_seeds": _seeds,
    "checkpoint": _checkpoint,
}
"""What reads each field that is one value."""
