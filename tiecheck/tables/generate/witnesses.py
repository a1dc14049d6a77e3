"""Chooses the tensors whose sizes tell most about a config, of all that follow its numbers."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from fractions import Fraction
from typing import Any, NamedTuple

from tiecheck.tables.generate.perturb import Field, Perturber

SizesSeen = dict[tuple[str, int], dict[Field, list[tuple[Any, int]]]]
"""(tensor, axis) -> field -> (value, size) of each perturbation that changes it."""

GuardsSeen = dict[tuple[str, int], set[Field]]
"""(tensor, axis) -> fields that change it and are no numbers."""

EXPONENTS = (1, 2, -1)

EACH = 2
"""Witnesses that are kept of one field."""

SHORT = 16
"""The longest axis, or part of one, that is taken for a constant of the class: a box has four numbers."""

MOST = 200
"""Witnesses of a class after which its groups get none of their own (DiffusionGemma ties 614 pairs)."""


class Witness(NamedTuple):
    """One axis of one tensor, and what makes its size."""

    name: str
    """The tensor."""
    axis: int
    """The axis."""
    factor: str
    """The constant, as a fraction; what is added to it after a `+`."""
    powers: tuple[tuple[str, int], ...]
    """Dotted field -> its exponent."""
    guards: tuple[tuple[str, Any], ...]
    """Other fields that must be as by default: (dotted field, its value)."""


def chosen_witnesses(asked: Perturber, sizes: SizesSeen, guards: GuardsSeen) -> list[Witness]:
    """Return the fewest and plainest witnesses that speak of every field that a size follows.

    One of them is no member of a group, if there is such: a file may have lost all members. Each group of matrices has
    its own.
    """
    found: list[tuple[tuple[Any, ...], Witness, set[str]]] = []
    taken = _converted(asked.model)
    for (name, axis), by in sizes.items():
        made = _formula(asked.base.shapes[name][axis], by)
        if made is None:
            continue
        factor, powers = made
        held = tuple(sorted((f.dotted, f.value) for f in guards.get((name, axis), ())))
        if len(held) > 2:
            continue
        seldom = "pool" in name or "head" in name  # a class with a head of its own may have none
        rank = (name in taken, seldom, len(held), len(powers), "+" in factor, any(e != 1 for _, e in powers))
        witness = Witness(name, axis, factor, powers, held)
        found.append(((*rank, "embed" not in name, len(name), name, axis), witness, {key for key, _ in powers}))
    members = {name: names for names in asked.base.groups for name in names}
    count: Counter[str] = Counter()
    apart: set[str] = set()
    kept = []
    seen = set[object]()
    for _, witness, keys in sorted(found, key=lambda one: one[0]):
        anywhere = (re.sub(r"\d+", "#", witness.name), witness.powers)
        group = (members.get(witness.name), witness.axis)
        own = group[0] is not None and group not in seen and asked.base.shapes[witness.name][1:] and len(seen) < MOST
        alone = witness.name not in members and not keys <= apart
        if own or (anywhere not in seen and (alone or any(count[key] < EACH for key in keys))):
            seen |= {anywhere, group}
            kept.append(witness)
            count.update(keys)
            apart |= set() if witness.name in members else keys
    free = _constants(asked, {*sizes, *guards})
    return sorted([*kept, *(free if len(kept) + len(free) < MOST else [])])


def _constants(asked: Perturber, changed: set[tuple[str, int]]) -> list[Witness]:
    """Return the short axes of tied matrices that no change of the config changes, one member for all.

    A long one may be a number whose change alone the class refuses.
    """
    matrices = [names[0] for names in asked.base.groups if len(asked.base.shapes[names[0]]) > 1]
    axes = ((name, axis, size) for name in matrices for axis, size in enumerate(asked.base.shapes[name]))
    return [
        Witness(name, axis, str(size), (), ())
        for name, axis, size in axes
        if size <= SHORT and (name, axis) not in changed
    ]


def _formula(size: int, by: dict[Field, list[tuple[Any, int]]]) -> tuple[str, tuple[tuple[str, int], ...]] | None:
    """Return the constant and the exponents that make a size; None where it follows the fields in another way."""
    powers = {}
    for field, seen in by.items():
        exponent = next((e for e in EXPONENTS if all(_times(size, v, field.value, e) == s for v, s in seen)), None)
        if exponent is None:
            return _affine(size, field, seen) if len(by) == 1 else None
        powers[field] = exponent
    factor = Fraction(size)
    for field, exponent in powers.items():
        factor /= Fraction(field.value) ** exponent
    if factor.denominator > 4096 or factor.numerator > 1 << 20:
        return None
    return str(factor), tuple(sorted((field.dotted, exponent) for field, exponent in powers.items()))


def _times(size: int, value: Any, before: Any, exponent: int) -> Fraction:
    return Fraction(size) * (Fraction(value) / Fraction(before)) ** exponent


def _affine(size: int, field: Field, seen: list[tuple[Any, int]]) -> tuple[str, tuple[tuple[str, int], ...]] | None:
    """Return a constant factor and what is added (BART has two positions more than its config says).

    What is long is another field of the config, which the class refuses to have changed alone (Bamba's width).
    """
    if len(seen) < 2 or type(field.value) is not int:
        return None
    slopes = {Fraction(s - size, v - field.value) for v, s in seen}
    if len(slopes) != 1 or (slope := slopes.pop()).denominator != 1 or slope < 1:
        return None
    more = size - slope * field.value
    return (f"{slope}+{more}", ((field.dotted, 1),)) if abs(more) <= SHORT else None


def _converted(model: Any) -> set[str]:
    """Return the tensors that are stored in other forms than the class has them in: experts, packed projections."""
    found: set[str] = set()
    with contextlib.suppress(Exception):  # 4.57 converts nothing
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key

        transforms = get_model_conversion_mapping(model)
        turned = [r for t in transforms if isinstance(t, WeightConverter) for r in [t.reverse_transform()]]
        names = model.state_dict()
        for name in names:
            if any(rename_source_key(name, [], [t], model.base_model_prefix, names)[1] is not None for t in turned):
                found.add(name)
    return found
