"""The models that a config.json builds inside each other, each with its own part of the config and of the names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.record import Record
from tiecheck.records.words import Unknown
from tiecheck.stored.config_values import DEEPEST, Refused, Section, open_section
from tiecheck.tables.structure import class_of_word, class_structure, config_structure

_EITHER_HEAD = ("blip-2", "instructblip", "instructblipvideo")
"""Configs whose text model is causal or sequence to sequence, as its type is (their modeling files, 5.23 and 4.57)."""


class Spot(Record):
    """One class somewhere in a model."""

    section: Section
    names: str
    """Beginning of the names of its tensors."""
    row: dict[str, Any]
    foreign: bool
    """True if the class around it has a model of another type by default."""


def spots_of(
    section: Section, class_name: str, names: str, line: str, above: tuple[bool, ...] = ()
) -> Iterator[Spot | Refused | Unknown]:
    """Yield a class and the models inside it, each with its config; `above` says which of those around are foreign."""
    foreign = any(above[-1:])
    found = class_structure(class_name, section.kind)
    if found is None or len(above) > DEEPEST:
        yield Unknown(f"{class_name} is not in the structure table")
        return
    row = found[1]
    yield Spot(section, names, row, foreign)
    for prefix, dotted, kind in row.get("p", ()):
        inner: Section | Refused | Unknown = section
        other = foreign and not dotted
        for key in dotted.split(".") if dotted else ():
            slots = (config_structure(inner.kind, line) or {}).get("s", {}) if isinstance(inner, Section) else {}
            inner = open_section(inner, key, line) if isinstance(inner, Section) else inner
            other |= isinstance(inner, Section) and inner.kind != slots[key]["typed"][0]
        if not isinstance(inner, Section):
            yield inner
            continue
        name = class_of_word(inner.kind, kind)
        if name is None and kind == "*c" and section.kind in _EITHER_HEAD:
            name = class_of_word(inner.kind, "*s")
        if config_structure(inner.kind) is None:
            yield Unknown(f"{inner.kind} is a config of 4.57 alone")
        elif name is None:
            yield Refused(f"{dotted} has the model type {inner.kind}, of which there is no such model", inner.level)
        else:
            yield from spots_of(inner, name, f"{names}{prefix}.", line, (*above, other))
