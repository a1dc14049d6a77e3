"""The structure table: which sizes follow which fields of a config, and what configs make of a missing section.

It is made by `python -m tiecheck.tables.generate.structure`, once for transformers 5, and once for 4.57, of which it
has the configs alone. Here it is only searched, as the tie table is: the lines of both are sorted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_FOLDER = os.path.dirname(__file__)
_FILES = {"5": "structure.txt", "4.57": "structure-4.57.txt"}
_BLOCK, _PROBE = 4096, 1024
"""Bytes of a table that are read at once where the lines are, and where it is halved."""


def sorted_lines(file: str, word: str) -> list[list[str]]:
    """Return the fields after the first of each line of a table that begins with a word.

    The file is halved: reading all of the tables for a dozen lines took a start some 2 ms.
    """
    wanted, table = f"{word}\t".encode(), os.open(os.path.join(_FOLDER, file), os.O_RDONLY)
    try:
        low, high = 0, os.fstat(table).st_size
        while high - low > _BLOCK:  # the first line that does not come before the word begins in between
            middle = (low + high) // 2
            begin, line = _line_after(table, middle, len(wanted))
            if begin >= high:
                high = middle
            elif line < wanted:
                low = begin
            else:
                high = begin
        return _lines_from(table, low, wanted)
    finally:
        os.close(table)


def _line_after(table: int, place: int, length: int) -> tuple[int, bytes]:
    """Return where the next line begins, and so many bytes of it; at the end of a table none."""
    begin, block = 0, b""
    while not begin and (block := os.pread(table, _PROBE, place)):
        begin = block.find(b"\n") + 1
        place += begin or len(block)
    line = block[begin : begin + length]
    return place, line if len(line) == length else os.pread(table, length, place)


def _lines_from(table: int, place: int, wanted: bytes) -> list[list[str]]:
    found, rest = [], b""
    while block := os.pread(table, _BLOCK, place):
        place += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(wanted):
                found.append(line[len(wanted) :].decode().split("\t"))
            elif line > wanted:
                return found
    return found


def class_structure(class_name: str, model_type: str | None) -> tuple[str, dict[str, Any]] | None:
    """Return the config class and the sizes of a model class; None for one that the table lacks.

    Where a class has several, the model type decides.
    """
    rows = _rows(class_name, "5") if class_name.isidentifier() else ()
    fitting = [row for row in rows if row[0] == model_type] or list(rows)
    if len(fitting) != 1:
        return None
    kind, key = fitting[0]
    return kind, (_value(f"={key}", "5") or {}) if key else {}


def config_structure(kind: str, line: str = "5") -> dict[str, Any] | None:
    """Return what is known of a config class, by its model type or its name; None for one that the table lacks."""
    return _value(f"@{kind}", line) if kind and "\t" not in kind and "\n" not in kind else None


def class_of_word(kind: str, word: str) -> str | None:
    """Return the class that an auto class makes of a config, or the one that is named."""
    return (config_structure(kind) or {}).get("m", {}).get(word) if word.startswith("*") else word


@lru_cache(64)  # it reads a whole table
def base_prefix(name: str, kind: str) -> str:
    """Return what a task's class has before the names of a base model; empty where the class is none."""
    if class_of_word(kind, "*") != name:
        return ""
    import re

    with open(os.path.join(_FOLDER, _FILES["5"]), encoding="utf-8") as file:
        tasks = re.findall(rf"\n(\w+)\t{re.escape(kind)}\t", file.read())
    rows = (class_structure(task, kind) or ("", {}) for task in tasks)
    found = (prefix for _, row in rows for prefix, level, word in row.get("p", ()) if not level and word == "*")
    return next(found, "")


def fold_sections(config: Mapping[str, Any], flag: str, line: str) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Return a flat config with the sections that a line of the library makes of its keys, and which those are.

    Only a section that takes a tie flag so is told of (Qwen2-VL's text in the layout of before 4.52).
    """
    model_type = config.get("model_type")
    known = config_structure(model_type, line) if isinstance(model_type, str) else None
    made = {}
    for key, slot in (known or {}).get("s", {}).items():
        if config.get(key) is None:
            folded = slot.get("fold null" if key in config else "fold gone", ())
            if flag in folded:
                made[key] = {name: config[name] for name in folded if name in config}
    return (dict(config) | made, frozenset(made)) if made else (config, frozenset())


@lru_cache(512)
def refused_values(kind: str) -> dict[str, str]:
    """Return the fields of a config class of transformers 5 with a bit for each type of value that it refuses."""
    by_bits = (config_structure(kind) or {}).get("t", {})
    return {name: bits for bits, names in by_bits.items() for name in names.split(" ")}


def known_words(kind: str, line: str) -> Iterator[tuple[str, frozenset[str], bool]]:
    """Yield each field of a config class that holds a word of the library, with the words that it takes.

    Last comes whether those are all: a package that is installed may bring others to what is no table of names.
    """
    known = config_structure(kind, line) or {}
    for word in "ec":
        for key, fields in known.get(word, {}).items():
            words = frozenset(_value(f"%{key}", line) or ())
            yield from ((field, words, word == "e") for field in fields)


def rope_needs(kind: str, line: str) -> Iterator[tuple[str, dict[str, list[str] | None]]]:
    """Yield each field of a rope type in a config class, with the keys that its types want beside them.

    None stands with a type that no class of the kind was seen to build with; `@` before a field of the config itself.
    """
    for key, fields in (config_structure(kind, line) or {}).get("q", {}).items():
        yield from ((field, _value(f"%{key}", line)) for field in fields)


@lru_cache(512)
def _rows(class_name: str, line: str) -> tuple[tuple[str, str], ...]:
    return tuple((kind, key) for kind, key in sorted_lines(_FILES[line], class_name))


@lru_cache(512)
def _value(key: str, line: str) -> Any:
    return next((json.loads(text) for (text,) in sorted_lines(_FILES[line], key)), None)


def has_foreign_text(model_type: str, config: Mapping[str, Any], shapes: list[dict[str, Any]], line: str) -> bool:
    """Tell whether a section with words is of a type that its class takes, and the table of ties was not made with.

    That table holds several types of some sections (`m` of its `shapes`).
    """
    mapped = {name for shape in shapes for name in shape.get("m", ())}
    for name, slot in (config_structure(model_type, line) or {}).get("s", {}).items():
        held, usual = config.get(name), slot["typed"][0]
        asked = held.get("model_type", usual) if isinstance(held, dict) and slot.get("any") else usual
        if asked != usual and name not in mapped and "vocab_size" in (config_structure(usual, line) or {}).get("d", {}):
            return True
    return False
