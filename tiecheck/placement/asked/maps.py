"""A placement that somebody asks for: a strategy, one device for the whole model, a JSON file, or a map.

A word means what transformers 5.23 `check_and_set_device_map` takes it for. Whether a map fits a model is for
`fit` to say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tiecheck.errors import TargetError, UsageError
from tiecheck.placement.asked.memory import DISK, NUMBERED, SINGLE, meant_device, normalise, number_of, shown

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""What transformers and accelerate plan a map for."""

FILE_LIMIT = 16 * 1024 * 1024
"""Bytes of a JSON map that are read at most; one with a key for each of 100,000 tensors has some 8 MB."""

Map = dict[str, int | str]
"""Module (or parameter) -> device, as transformers and accelerate take it."""


def read_map(given: Any, place: str = "device_map=", *, text: bool = False, folder: str = "") -> tuple[str | Map, str]:
    """What a device map was asked for.

    Args:
        given: A strategy, a device for the whole model, the path of a JSON file, or a mapping.
        place: Where it was said, for messages.
        text: Whether it was typed, so that digits are a number (`0`); in Python `device_map="0"` is an error of torch.
        folder: What a relative path counts from.

    Returns:
        The strategy, or the map with devices as they were written (a `torch.device` by its words); and where it was
        said: `place`, or the file.

    Raises:
        UsageError: It is none of these, the file cannot be read, or it holds something else; one sentence.
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
    normalise(given, place)
    return {"": given if isinstance(given, int) else str(given)}, place


def _is_device(word: str) -> bool:
    """Whether a word can only be meant for a device."""
    return word == DISK or word.partition(":")[0] in (*NUMBERED, *SINGLE)


def _file_or_typo(word: str, place: str, folder: str) -> tuple[Map, str]:
    """A map from a file, or the error that a word is nothing."""
    path = os.path.join(folder, word) if folder and not os.path.isabs(word) else word
    if os.path.lexists(path) or word.endswith(".json"):
        return read_map_file(path), path
    raise UsageError(f"{place}: {shown(word)} is no strategy, no device and no JSON file that is here{_meant(word)}")


def _meant(word: str) -> str:
    """What was meant by a word, as the end of a sentence."""
    import difflib

    near = difflib.get_close_matches(word.lower(), STRATEGIES, n=2)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    device = meant_device(word)
    if device is not None:
        return f"; did you mean {device if isinstance(device, str) else f'cuda:{device}'}?"
    return f"; there are {', '.join(STRATEGIES)}, devices as cuda:0 or cpu, and files"


def read_map_file(path: str) -> Map:
    """A map from a JSON file: an object of module name to device.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be read, is no JSON, or holds anything else; with line and column where JSON breaks.
    """
    from tiecheck.files.local import parse_json, read_bytes

    label = path if path.isprintable() else ascii(path)

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(found)
        if len(held) < len(found):
            counts = Counter(name for name, _ in found)
            twice = next(name for name, count in counts.items() if count > 1)
            raise UsageError(f"{label} holds the key {shown(twice)} twice; which device counts?", path)
        return held

    try:
        found = parse_json(read_bytes(path, label, FILE_LIMIT), label, path, pairs=pairs)
    except TargetError as error:
        raise UsageError(str(error) if str(error).isprintable() else ascii(str(error)), path) from error
    if isinstance(found, str) and found in STRATEGIES:
        raise UsageError(f"{label} holds the strategy {shown(found)}, not a map; write --device-map {found}", path)
    return _checked(found, label)


def _checked(found: Any, place: str) -> Map:
    """A mapping all of whose keys are names and whose values are devices."""
    if not isinstance(found, Mapping):
        raise UsageError(
            f'{place} must map modules to devices, as {{"model": 0, "lm_head": "cpu"}}, not {shown(found)}'
        )
    if not found:
        raise UsageError(f"{place} is empty: it gives no module a device")
    for name, device in found.items():
        if not isinstance(name, str):
            raise UsageError(f"{place}: {shown(name)} is no module's name")
        if isinstance(device, Mapping):
            inner = next(iter(device), "...")
            raise UsageError(
                f"{place}: {shown(name)} holds another map; write its keys out, as {shown(f'{name}.{inner}')}"
            )
        if device is None or isinstance(device, (list, tuple)):
            raise UsageError(f"{place}: {shown(name)} is on {shown(device)}, which is no device")
        normalise(device, f"{place}, {shown(name)}")
    return {name: int(device) if isinstance(device, int) else str(device) for name, device in found.items()}
