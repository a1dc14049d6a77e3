"""The tie table: what is known about a model's class without importing it.

The table is made by `python -m tiecheck.data.generate`, which asks transformers itself. Here it is
only searched: one read of the file, one search for the class's line, and its shapes alone parsed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tiecheck.facts import Architecture, Kind, TieSpec

_TABLE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data", "architectures.txt")
_text: list[bytes] = []


def load_architecture(
    class_name: str | None,
    model_type: str | None,
    width: int | None = None,
    config: Mapping[str, object] | None = None,
) -> Architecture:
    """What the tie table knows of a class.

    Args:
        class_name: The class, as `architectures` in a `config.json` names it.
        model_type: The config's model type: one class name may serve several.
        width: The model's width, for a head scale that hangs on it.
        config: The parsed `config.json`; where several levels can decide a group, the level that decides for this
            config is given.
    """
    origin = f"transformers {table_version()}"
    if not class_name:
        return Architecture(class_name, False, (), f"{origin}: the config names no class", None)
    rows = _rows(class_name) if class_name.isidentifier() else []
    if not rows:
        return Architecture(class_name, False, (), f"{origin} does not have {class_name}", None)
    fitting = [row for row in rows if model_type is None or model_type in row[0].split(",")]
    if len({row[1] for row in fitting}) != 1:
        types = ", ".join(sorted(t for row in rows for t in row[0].split(",")))
        why = "for model types that tie differently:" if fitting else "only for model type"
        return Architecture(class_name, False, (), f"{origin} has {class_name} {why} {types}", None)
    ties = [tie for key in fitting[0][1].split(",") if key for tie in _ties(_shape(key), config)]
    tags = {row[2] for row in fitting}
    scale = _scale(tags.pop() if len(tags) == 1 else "", width, config or {})
    return Architecture(class_name, True, tuple(sorted(ties)), origin, scale)


def tried_levels(class_name: str | None, model_type: str | None) -> frozenset[tuple[str, ...]]:
    """The config levels whose flags were tried on a class when the table was made, the top among them.

    A flag at one of them that is not the deciding one changes nothing; what a flag anywhere else does is not known.
    """
    rows = _rows(class_name) if class_name and class_name.isidentifier() else []
    found = {row[3] for row in rows if model_type is None or model_type in row[0].split(",")}
    levels = found.pop() if len(found) == 1 else ""
    return frozenset({(), *(tuple(level.split(".")) for level in levels.split(",") if level)})


def table_version() -> str:
    """The transformers version that the table was made from."""
    return _table()[: _table().index(b"\n")].split(b"\t")[2].decode()


def _table() -> bytes:
    if not _text:
        with open(_TABLE, "rb") as file:
            _text.append(file.read())
    return _text[0]


def _rows(class_name: str) -> list[list[str]]:
    """Model types, shape keys, head scale and levels of every line of a class."""
    table, wanted, rows = _table(), f"\n{class_name}\t".encode(), []
    start = table.find(wanted)
    while start >= 0:
        end = table.index(b"\n", start + 1)
        rows.append(table[start + len(wanted) : end].decode().split("\t"))
        start = table.find(wanted, end)
    return rows


def _shape(key: str) -> dict[str, Any]:
    table, wanted = _table(), f"\n={key}\t".encode()
    start = table.index(wanted) + len(wanted)
    shape: dict[str, Any] = json.loads(table[start : table.index(b"\n", start)])
    return shape


def _ties(shape: dict[str, Any], config: Mapping[str, object] | None) -> list[TieSpec]:
    bits, fits = _inner(shape, config)
    level, on, off = _decider(shape | {"t": bits}, config or {})
    kind: Kind = shape.get("k", "parameter")
    also = {int(i): stems for i, stems in shape.get("a", {}).items()}
    ties = []
    for end in shape["x"]:
        names = tuple(stem + end for stem in shape["n"])
        spellings = {names[i]: tuple(stem + end for stem in stems) for i, stems in also.items()}
        exact = fits and "e" not in shape
        ties.append(TieSpec(names, names[shape["s"]], kind, bits[0] == "1", on, off, level, exact, spellings))
    return ties


def _inner(shape: dict[str, Any], config: Mapping[str, object] | None) -> tuple[str, bool]:
    """The bits under the text model that a composite config holds, and whether the names hold for it.

    Without a config nobody knows what it holds; a config that names no type holds the default one.
    """
    bits: str = shape["t"]
    for key, known in shape.get("m", {}).items():
        held = config.get(key) if config is not None else {"model_type": None}
        model_type = held.get("model_type", "") if isinstance(held, Mapping) else ""
        found = next((b for b, types in known.items() if model_type in types.split(",")), None)
        if found is None and model_type != "":
            return bits, False
        bits = found or bits
    return bits, True


def _decider(shape: dict[str, Any], config: Mapping[str, object]) -> tuple[tuple[str, ...], bool, bool]:
    """The level whose flag decides a group, and what its true and false do.

    Where the table knows of further levels, the config is asked which of them speaks: transformers 5.23 forwards
    a nested flag for some classes (`LlavaConfig`, `Qwen2VLConfig`), and some are untied by two flags only
    (`HunYuanVLConfig`).
    """
    level, (_, on, off) = tuple(shape.get("l", ())), (bit == "1" for bit in shape["t"])
    joint = shape.get("w", ())
    if joint and all(_flag(config, held) is False for held in joint):
        return tuple(joint[0]), on, False
    main = _flag(config, level)
    for other_level, bits in shape.get("o", ()):
        other = _flag(config, other_level)
        if other is None:
            continue
        true, false = bits[0] == "1", bits[1] == "1"
        if main is None and (true if other else false) != (shape["t"][0] == "1"):
            return tuple(other_level), true, false
        if main is not None and main != other and (bits[2 if other else 3] == "1") != (on if main else off):
            return tuple(other_level), true, false
    return level, on, off


def _flag(config: Mapping[str, object], level: Any) -> bool | None:
    found: object = config
    for key in (*level, "tie_word_embeddings"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, bool) else None


def _scale(tag: str, width: int | None, config: Mapping[str, object]) -> float | None:
    """A head scale by its tag (`tiecheck.data._scale.head_scale_tag` says what tags there are); None if not known."""
    if "|" in tag:
        tag, other, switches = tag.split("|")
        state = next((config[key] for key in switches.split(",") if isinstance(config.get(key), bool)), None)
        tag = other if state is False else tag
    if tag == "1":
        return 1.0
    if tag == "d^-0.5":
        return width**-0.5 if width else None
    if tag:
        operation, key, default = tag.split(":")
        given = config.get(key)
        value = float(given) if isinstance(given, int | float) and not isinstance(given, bool) else float(default)
        return value if operation == "config" else 1 / value if value else None
    return None
