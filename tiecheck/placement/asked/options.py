"""The options of a placement, read the same way from the command line, a configuration file and a Python call.

The map is a strategy, one device for the whole model, a JSON file, or a mapping; a word means what transformers 5.23
`check_and_set_device_map` takes it for. Whether a map fits a model is for `fit` to say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tiecheck.config.options import PLACING
from tiecheck.errors import TargetError, UsageError, did_you_mean
from tiecheck.placement.asked.memory import (
    DISK,
    NUMBERED,
    SINGLE,
    normal_device,
    number_of,
    parse_memories,
    shown_value,
)

FIELDS = tuple(field for field in PLACING if field != "device_map_from")
"""Those that somebody gives."""

DTYPES = (
    *("float32", "float16", "bfloat16", "float64", "int8", "uint8"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
"""Element types that weights are loaded in, by torch's words."""

SHORT = {"half": "float16", "float": "float32", "double": "float64"}
"""Other words that torch has for them."""

SEEDS = 256
"""Hash seeds at most: each is a process of its own, and what 256 of them do not show is rare."""


def read_placing(
    given: Mapping[str, Any], say: Callable[[str], str], *, text: bool, folder: str = ""
) -> dict[str, Any]:
    """Return the options of a placement that were given, as `Config` holds them, with `device_map_from` for a map.

    `say` makes what a message calls a field (`--max-memory`); what was typed (`text`) has numbers as digits; relative
    paths count from the folder. What is wrong is a `UsageError` of one sentence.
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
    """Raise a `UsageError` for a field on how to place a model, where the options that count have no device map."""
    if fields.get("device_map") is None:
        for field in given:
            if field in FIELDS:
                raise UsageError(
                    f"{say(field)} says how to place a model, and nothing asks for it; give {say(FIELDS[0])} too"
                )


def _numbered(value: Any) -> Any:
    """Return a table of a configuration file with numbers for keys of digits, which TOML does not have."""
    if not isinstance(value, Mapping):
        return value
    return {number_of(key) if isinstance(key, str) else key: size for key, size in value.items()}


def read_dtype(value: Any, place: str) -> str | None:
    """Return an element type by torch's word, None for `auto`, the checkpoint's own; what is none is a `UsageError`."""
    word = str(value).removeprefix("torch.")
    word = SHORT.get(word, word)
    if word == "auto":
        return None
    if word not in DTYPES or isinstance(value, (bool, int, float)):
        what = "is no element type that weights are loaded in"
        raise UsageError(f"{place}: {shown_value(value)} {what}{did_you_mean(word, DTYPES)}")
    return word


def _no_split(value: Any, place: str) -> tuple[str, ...]:
    """Return names of classes, as accelerate compares them: without the module that they are from."""
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, Iterable) or isinstance(words, (bytes, Mapping)):
        raise UsageError(f"{place} must be names of classes, as LlamaDecoderLayer, not {shown_value(value)}")
    words = tuple(words)
    for word in words:
        if not isinstance(word, str) or not word.isidentifier():
            last = word.rpartition(".")[2] if isinstance(word, str) else ""
            hint = f"write {last}" if last.isidentifier() else "write it as LlamaDecoderLayer"
            raise UsageError(f"{place}: {shown_value(word)} is no name of a class; {hint}")
    return words


def _seeds(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= SEEDS:
        raise UsageError(f"{place} must be a number of hash seeds from 0 to {SEEDS}, not {shown_value(value)}")
    return value


def _checkpoint(value: Any, place: str) -> str:
    """Return a checkpoint that is here: accelerate reads files and folders alone."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{place} must be the path of a checkpoint, not {shown_value(value)}")
    path = os.fspath(value)
    if not os.path.exists(path):
        raise UsageError(f"{place}: there is no {shown_value(path)}; accelerate loads a file or a folder that is here")
    return path


_READ: dict[str, Callable[[Any, str], Any]] = {
    "dtype": read_dtype,
    "no_split": _no_split,
    "hash_seeds": _seeds,
    "checkpoint": _checkpoint,
}
"""The reader of each field that is one value."""


STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Words for which transformers and accelerate plan a map."""

FILE_LIMIT = 16 * 1024 * 1024
"""Bytes of a JSON map that are read at most; one with a key for each of 100,000 tensors has some 8 MB."""

Map = dict[str, int | str]
"""Module (or parameter) -> device, as transformers and accelerate take it."""


def read_map(given: Any, place: str = "device_map=", *, text: bool = False, folder: str = "") -> tuple[str | Map, str]:
    """Return what was asked for, a strategy or a map with devices as written, and where: `place`, or its file.

    It is given as a strategy, a device for the whole model, the path of a JSON file, or a mapping. `text` means typed,
    so that digits are a number; in Python `device_map="0"` is an error of torch. Anything else is a `UsageError`.
    """
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if isinstance(given, Mapping):
        return _checked(given, place), place
    if isinstance(given, str):
        device = number_of(given) if text else given
        if given in STRATEGIES:
            return given, place
        if not _is_device(given) and isinstance(device, str):
            return _file_or_typo(given, place, folder)
        given = device
    if given == DISK:
        raise UsageError(
            f'{place}: transformers 5.23 takes no \'disk\' for the whole model; write a file that holds {{"": "disk"}}'
        )
    normal_device(given, place)
    return {"": given if isinstance(given, int) else str(given)}, place


def _is_device(word: str) -> bool:
    """Return whether a word can only be meant for a device."""
    return word == DISK or word.partition(":")[0] in (*NUMBERED, *SINGLE)


def _file_or_typo(word: str, place: str, folder: str) -> tuple[Map, str]:
    """Return a map from a file, or the error that a word is nothing."""
    path = os.path.join(folder, word) if folder and not os.path.isabs(word) else word
    if os.path.lexists(path) or word.endswith(".json"):
        return read_map_file(path), path
    raise UsageError(
        f"{place}: {shown_value(word)} is no strategy, no device and no JSON file that is "
        f"here{did_you_mean(word, STRATEGIES)}"
    )


def read_map_file(path: str) -> Map:
    """Return a map from a JSON file, an object of module name to device; a `UsageError` says where it is none."""
    from tiecheck.files.local import parse_json, read_bytes

    label = path if path.isprintable() else ascii(path)

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(found)
        if len(held) < len(found):
            counts = Counter(name for name, _ in found)
            twice = next(name for name, count in counts.items() if count > 1)
            raise UsageError(f"{label} holds the key {shown_value(twice)} twice; which device counts?", path)
        return held

    try:
        found = parse_json(read_bytes(path, label, FILE_LIMIT), label, path, pairs=pairs)
    except TargetError as error:
        raise UsageError(str(error) if str(error).isprintable() else ascii(str(error)), path) from error
    return _checked(found, label)


def _checked(found: Any, place: str) -> Map:
    """Return a mapping all of whose keys are names and whose values are devices."""
    if not isinstance(found, Mapping):
        raise UsageError(
            f'{place} must map modules to devices, as {{"model": 0, "lm_head": "cpu"}}, not {shown_value(found)}'
        )
    if not found:
        raise UsageError(f"{place} is empty: it gives no module a device")
    for name, device in found.items():
        if not isinstance(name, str):
            raise UsageError(f"{place}: {shown_value(name)} is no module's name")
        normal_device(device, f"{place}, {shown_value(name)}")
    return {name: int(device) if isinstance(device, int) else str(device) for name, device in found.items()}
