"""The tie table as text: one line a class, groups shared by many classes stored once.

`tiecheck.tables.architectures` finds a line's beginning by halving, so that nothing is read but what is asked for: all
lines are sorted as bytes. A line is `class<TAB>model types<TAB>shapes<TAB>head scale<TAB>levels<TAB>about`; a shape,
and what is said about a class, is `=hash<TAB>json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tiecheck.tables.generate.build import (
    is_older_line,
    model_declarations,
    parameter_of,
    proven_sources,
    repairs_missing,
    taken_biases,
)
from tiecheck.tables.generate.configs import FLAG
from tiecheck.tables.generate.inner_models import Inner
from tiecheck.tables.generate.probe import ProbedGroup

PATH = Path(__file__).parent.with_name("architectures.txt")
"""The table of the newest transformers."""

OLDER_PATH = Path(__file__).parent.with_name("architectures-4.57.txt")
"""The table of the last transformers before 5, which ties by other rules."""

Spellings = Mapping[str, tuple[str, ...]]

Hangs = dict[str, dict[str, Any]]
"""`c`: dotted field -> values under which alone a class has a group; `f`: values under which it has not; `h`: the value
of the default, without which its names are others."""


class Row(NamedTuple):
    """One class under one model type."""

    class_name: str
    """The class."""
    model_type: str
    """The model type."""
    shapes: tuple[str, ...]
    """Its groups as JSON, sorted."""
    head_scale: str
    """The tag of what multiplies its logits; empty where it is not known."""
    levels: str
    """The nested config levels whose flags were tried, dotted, joined by commas; empty for a class without groups."""
    about: str = ""
    """Words of the class about itself, as JSON (`about_of`); empty for a class without groups and without a head."""


def about_of(model: Any, *, only_headed: bool = False, unread: list[str] | None = None) -> str:
    """Embedding, head, base model prefix and declared ties of a built model, as JSON; patterns stay as declared.

    `f` is there where a class of 4.57 mends what is missing by itself, `b` where it takes a stored bias for its group,
    `u` where biases of groups are `unread` by every forward pass.

    With `only_headed`, empty for a model that does not have both embedding and head.
    """
    found = {
        "i": parameter_of(model, "get_input_embeddings"),
        "h": parameter_of(model, "get_output_embeddings"),
        "p": model.base_model_prefix,
        "d": [[path, [list(pair) for pair in pairs]] for path, pairs in _declared(model)],
        "f": int(is_older_line() and repairs_missing(model)),
        "b": taken_biases(model) if is_older_line() else [],
        "u": unread or [],
    }
    if only_headed and not (found["i"] and found["h"]):
        return ""
    return _dump({key: value for key, value in found.items() if value})


def _declared(model: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Declarations; in 4.57, where some declare all members of a group, without the one that the others are tied to."""
    sources = proven_sources(model) if is_older_line() else set()
    found = [
        (path, [p for p in pairs if f"{path}.{p[0]}".lstrip(".") not in sources])
        for path, pairs in model_declarations(model)
    ]
    return [(path, pairs) for path, pairs in found if pairs]


def shapes_of(
    groups: Iterable[ProbedGroup],
    spellings: Spellings,
    inner: Mapping[tuple[str, ...], Inner],
    alone: Any = None,
    hangs: Mapping[tuple[str, ...], Hangs] | None = None,
) -> tuple[str, ...]:
    """Groups as JSON shapes: groups that differ only in the end of their names (one a layer) become one shape.

    `alone` is the built model of groups that the class has with the inner models of `inner` and with no others: what
    its embedding and head are called is kept with them. `hangs` says under which other fields the class has a group.
    """
    families: dict[str, list[str]] = {}
    for group in groups:
        shape, suffix = _factor(group, spellings, inner[group.names])
        shape |= (hangs or {}).get(group.names, {})
        if alone is not None:
            shape["z"] = [parameter_of(alone, getter) for getter in ("get_input_embeddings", "get_output_embeddings")]
        families.setdefault(_dump(shape), []).append(suffix)
    return tuple(sorted(_dump(json.loads(shape) | {"x": sorted(ends)}) for shape, ends in families.items()))


def _factor(group: ProbedGroup, spellings: Spellings, inner: Inner) -> tuple[dict[str, Any], str]:
    """A group as stems and the ending that all its names and spellings have."""
    suffix = _ending([*group.names, *(s for name in group.names for s in spellings.get(name, ()))])
    cut = len(suffix)
    shape: dict[str, Any] = {
        "n": [name[: len(name) - cut] for name in group.names],
        "s": group.names.index(group.source),
        "t": group.bits,
    }
    also = {
        str(i): [s[: len(s) - cut] for s in spellings[name]]
        for i, name in enumerate(group.names)
        if spellings.get(name)
    }
    optional = {
        "a": also,
        "k": "" if group.kind == "parameter" else group.kind,
        "l": list(group.level),
        "e": "" if group.exact else "no",
        "m": {key: _by_bits(types) for key, types in inner.items()},
        "w": [list(level) for level in group.joint],
        "o": [[list(other.level), other.bits] for other in group.others],
        "q": "" if group.key == FLAG else group.key,
        "u": int(group.unlike),
        "y": [[alias.key, list(alias.level), alias.bits] for alias in group.aliases],
    }
    return shape | {key: value for key, value in optional.items() if value}, suffix


def _by_bits(types: Mapping[str, str]) -> dict[str, str]:
    """Model types, joined by commas, under the bits they share."""
    return {bits: ",".join(sorted(t for t, b in types.items() if b == bits)) for bits in types.values()}


def _ending(names: list[str]) -> str:
    """The longest run of dotted parts that all names end with, the dot before it left out."""
    parts = [name.split(".")[::-1] for name in names]
    length = 0
    while all(len(p) > length and p[length] == parts[0][length] for p in parts):
        length += 1
    return ".".join(parts[0][:length][::-1])


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def shape_digest(shape: str) -> str:
    """A short name for a shape that stays the same when others come and go."""
    return hashlib.sha256(shape.encode()).hexdigest()[:7]


def render(rows: Iterable[Row], version: str) -> str:
    """The whole table, sorted; the same rows give the same bytes."""
    merged: dict[tuple[str, tuple[str, ...], str, str, str], list[str]] = {}
    for row in rows:
        key = (row.class_name, row.shapes, row.head_scale, row.levels, row.about)
        merged.setdefault(key, []).append(row.model_type)
    distinct = {shape for key in merged for shape in (*key[1], key[4]) if shape}
    shapes = {shape_digest(shape): shape for shape in distinct}
    if len(shapes) != len(distinct):
        raise ValueError("two shapes share a digest: make the digest longer")
    lines = [
        "\t".join(
            (
                name,
                ",".join(sorted(types)),
                ",".join(map(shape_digest, held)),
                scale,
                levels,
                about and shape_digest(about),
            )
        )
        for (name, held, scale, levels, about), types in merged.items()
    ]
    head = f"#\ttransformers\t{version}\tmade by python -m tiecheck.tables.generate; do not edit"
    return "\n".join([head, *sorted([*lines, *(f"={key}\t{shapes[key]}" for key in shapes)]), ""])


def parse_table(text: str) -> list[Row]:
    """The rows of a table, one a model type."""
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    shapes = {key[1:]: rest[0] for key, *rest in lines if key.startswith("=")}
    rows = []
    for name, *rest in lines:
        if not name.startswith("="):
            types, held, scale, levels, about = rest
            found = tuple(shapes[key] for key in held.split(",") if key)
            text = shapes[about] if about else ""
            rows += [Row(name, model_type, found, scale, levels, text) for model_type in types.split(",")]
    return sorted(rows)
