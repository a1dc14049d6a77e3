"""Finds the size of a task's head, rows that follow the labels or that nothing moves, and the switches it refuses.

A class with a base model is asked for the base alone elsewhere, and most tasks differ in such a head from each other.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tiecheck.tables.generate.perturb import Field, Perturber, SlowClassError, Variant
from tiecheck.tables.generate.sizes import InnerModel, SizeChanges
from tiecheck.tables.generate.witnesses import SHORT, Witness

LABELS = "num_labels"
"""What 5 and 4.57 make of `id2label` and the key of this name (`PreTrainedConfig`)."""

ASKED = re.compile(r'hasattr\((?:self\.)?config, "(\w+)"\)')
"""A key of which a class asks whether its config has it."""

TRIED = (7, 11)
"""Numbers of labels that no class has by default."""

Place = tuple[str, int]


def head_witnesses(asked: Perturber, inside: tuple[str, ...], own: Iterable[str]) -> list[Witness]:
    """Return the one witness of a class's head, of all outside of the models inside; `own` are a task's modules."""
    with contextlib.suppress(SlowClassError):
        return _head_of(asked, inside, own)
    return []


def _head_of(asked: Perturber, inside: tuple[str, ...], own: Iterable[str]) -> list[Witness]:
    few, many = (asked.built(_labels(count)) for count in TRIED)
    if isinstance(few, str) or isinstance(many, str):
        return []
    flips = {field: other for field, other in asked.switches(()) if type(other) is bool}
    for place in _places(asked, inside):
        made = _formula(place, asked.base, few, many)
        if made is not None and not _moved(asked, flips, _labels(TRIED[0]), place, _size(few, place)):
            return [Witness(*place, made, ((LABELS, 1),), ())]
    doubled = {field: field.value * 2 for level in asked.levels for field in asked.numbers(level)}
    for name, axis in _places(asked, tuple(f"{part}." for part in own), within=True):
        size = _size(asked.base, (name, axis)) or 0
        matrix = axis == 0 and len(asked.base.shapes[name]) == 2 and name.endswith(".weight")
        still = matrix and size <= SHORT and _size(few, (name, 0)) == size
        if still and not _moved(asked, doubled | flips, {}, (name, 0), size):
            return [Witness(name, 0, str(size), (), ())]
    return []


def refused_switches(asked: Perturber, parts: tuple[InnerModel, ...]) -> list[tuple[Any, ...]]:
    """Return the truth values that a class refuses and its base model does not, as `Sizes.refused` has them."""
    flips = {field: other for field, other in asked.switches(()) if type(other) is bool}
    known = {field.key for field in flips}.union(asked.owners[()].to_dict())
    # Hubert asks for `add_adapter`, which its own config has not
    flips |= {Field((), key, -1, False): True for key in set(ASKED.findall(_source(asked))) - known}
    found = SizeChanges(asked, tuple(f"{part.prefix}." for part in parts))
    base = next((asked.model.get_submodule(part.prefix) for part in parts if not part.level), None)
    if base is None:
        return []
    with contextlib.suppress(SlowClassError):
        found.switches(flips)
    told = {one[0] for one in found.refused}
    whole, asked.model_class = asked.model_class, type(base)
    try:
        made = {f.dotted for f, v in flips.items() if f.dotted in told and not isinstance(asked.built({f: v}), str)}
    finally:
        asked.model_class = whole
    return [one for one in found.refused if one[0] in made]


def _source(asked: Perturber) -> str:
    with contextlib.suppress(OSError, TypeError):
        return inspect.getsource(asked.model_class)
    return ""


def _labels(count: int) -> dict[Field, Any]:
    return {Field((), "id2label", -1, None): {str(number): f"l{number}" for number in range(count)}}


def _places(asked: Perturber, starts: tuple[str, ...], *, within: bool = False) -> Iterator[Place]:
    """Yield the axes of the tensors outside of some modules, or within them: matrices first, and short names."""
    shapes = asked.base.shapes
    names = (name for name in shapes if name.startswith(starts) == within)
    for name in sorted(names, key=lambda name: (len(shapes[name]) != 2, len(name), name)):
        yield from ((name, axis) for axis in range(len(shapes[name])))


def _size(built: Variant, place: Place) -> int | None:
    shape = built.shapes.get(place[0], ())
    return shape[place[1]] if len(shape) > place[1] else None


def _formula(place: Place, base: Variant, few: Variant, many: Variant) -> str | None:
    """Return the constant, and what is added to it, by which a size follows the number of labels; None for others."""
    usual, less, more = (_size(built, place) for built in (base, few, many))
    if usual is None or less is None or more is None or less == more or (more - less) % (TRIED[1] - TRIED[0]):
        return None
    slope = (more - less) // (TRIED[1] - TRIED[0])
    added = less - slope * TRIED[0]
    right = slope > 0 and 0 <= added <= SHORT and (usual - added) % slope == 0
    return None if not right else f"{slope}+{added}" if added else str(slope)


def _moved(asked: Perturber, changes: dict[Field, Any], base: dict[Field, Any], place: Place, size: int | None) -> bool:
    """Tell whether some fields, changed together and in halves, give a place another size; what raises moves none."""
    if not changes:
        return False
    built = asked.built(base | changes)
    if not isinstance(built, str):
        other = _size(built, place)
        if other is None or other == size:
            return False
    if len(changes) == 1:
        return not isinstance(built, str)
    pairs = list(changes.items())
    halves = (dict(pairs[: len(pairs) // 2]), dict(pairs[len(pairs) // 2 :]))
    return any(_moved(asked, half, base, place, size) for half in halves)
