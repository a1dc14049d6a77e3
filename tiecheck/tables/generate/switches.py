"""Finds tensors whose size a switch of the config changes in a way that no plain witness tells, and each state's sum.

Falcon's packed projection is `hidden + 2 * hidden / heads` wide, thrice `hidden`, or more, as two truth values say.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from tiecheck.tables.generate.configs import Level
from tiecheck.tables.generate.perturb import Field, Perturber
from tiecheck.tables.generate.sizes import SizeChanges

Place = tuple[str, int]
Seen = list[tuple[dict[Field, Any], int]]
"""Values of the numbers that a size was seen to follow, and the size that they made."""

MOST = 3
"""Switches of one tensor, terms of a sum, and fields of a term, at most."""

TRIED = 3
"""Tensors of one switch that are tried."""

LARGEST = 16
"""The largest factor of a sum: a longer one may stand for a number of the config that no change told of."""


def switch_rules(changes: SizeChanges, levels: list[Level], told: set[str]) -> list[list[Any]]:
    """Return rows of (tensor, axis, switches, states) for each switch of which no witness speaks.

    A state is a value for each switch and the terms of its sum, each a factor with the exponents of its fields; None
    where no sum was found. The first is the default's.
    """
    asked = changes.asked
    numbers = [field for level in levels for field in asked.numbers(level)]
    values: dict[Field, list[Any]] = defaultdict(list)
    places: dict[Place, list[Field]] = defaultdict(list)
    twins = {field: value for level in levels for field, value in changes.twins(level).items()}
    apart = asked.built(twins) if twins else "none"
    for field, other in itertools.chain.from_iterable(asked.switches(level) for level in levels):
        changed = changes.changed(asked.built({field: other}))
        if not isinstance(apart, str):  # a switch may take one of two numbers that are equal by default (WavLM's head)
            changed |= changes.changed(asked.built(twins | {field: other}), apart)
        if changed:
            values[field].append(other)
        for place in changed:
            places[place] += [field] * (field not in places[place])
    found: list[list[Any]] = []
    for field in values:
        if field.dotted in told | {dotted for row in found for dotted in row[2]}:
            continue
        fitting = sorted((len(fields), len(place[0]), place) for place, fields in places.items() if field in fields)
        rows = [_row(changes.asked, place, places[place], values, numbers) for *_, place in fitting[:TRIED]]
        found += sorted((row for row in rows if row), key=lambda row: all(terms is None for _, terms in row[3]))[:1]
    return found


def _row(
    asked: Perturber, place: Place, fields: list[Field], values: dict[Field, list[Any]], numbers: list[Field]
) -> list[Any]:
    if len(fields) > MOST:
        return []
    states = []
    for state in itertools.product(*([field.value, *values[field]] for field in fields)):
        seen = list(_seen(asked, dict(zip(fields, state, strict=True)), place, numbers))
        if seen:
            states.append([list(state), _sum(seen)])
    return [*place, [field.dotted for field in fields], states]


def _seen(asked: Perturber, state: dict[Field, Any], place: Place, numbers: list[Field]) -> Iterator[Any]:
    """Yield the size under a state, and under each number that changes it, alone or with one that it has to divide."""
    whole = [f for f in numbers if type(f.value) is int]
    base = {f: f.value for f in whole}
    size = _size(asked, state, place)
    if size is None:
        return
    yield base, size
    for field, times in itertools.product(whole, (2, 3)):
        alone = _size(asked, state | {field: field.value * times}, place)
        if alone is not None:
            yield base | {field: field.value * times}, alone
            continue
        for other in (f for f in whole if f.value > field.value > 1 and f.value % field.value == 0):
            both = {field: field.value * times, other: other.value * times}
            made = _size(asked, state | both, place)
            if made is not None:
                yield base | both, made


def _size(asked: Perturber, changes: dict[Field, Any], place: Place) -> int | None:
    built = asked.built(changes)
    shape = () if isinstance(built, str) else built.shapes.get(place[0], ())
    return shape[place[1]] if len(shape) > place[1] else None


def _sum(seen: Seen) -> list[list[Any]] | None:
    """Return the shortest sum of products of fields, each with a whole factor, that makes every size that was seen."""
    (base, usual), *rest = seen
    alone = {f for values, size in rest for f in values if values[f] != base[f] and size != usual}
    fields = sorted(alone, key=lambda f: f.dotted)
    products: list[dict[Field, int]] = [{}]
    for count in range(1, MOST + 1):
        for chosen in itertools.combinations(fields, count):
            product = dict.fromkeys(chosen, 1)
            products += [product, *(product | {one: -1} for one in chosen if count > 1)]
    sizes = np.array([float(size) for _, size in seen])
    columns = [np.array([float(_product(p, values)) for values, _ in seen]) for p in products]
    for count in range(1, MOST + 1):
        for places in itertools.combinations(range(len(products)), count):
            matrix = np.stack([columns[i] for i in places], axis=1)
            factors, _, rank, _ = np.linalg.lstsq(matrix, sizes, rcond=None)
            whole = factors.round()
            if rank < count or not whole.all() or abs(whole).max() > LARGEST or not _makes(matrix, whole, sizes):
                continue
            terms = [(int(f), products[i]) for f, i in zip(whole, places, strict=True)]
            return [[f, {field.dotted: e for field, e in p.items()}] for f, p in terms]
    return None


def _makes(matrix: Any, factors: Any, sizes: Any) -> bool:
    return bool(np.allclose(matrix @ factors, sizes, rtol=0, atol=1e-6))


def _product(product: dict[Field, int], values: dict[Field, Any]) -> Fraction:
    return math.prod((Fraction(values[field]) ** exponent for field, exponent in product.items()), start=Fraction(1))
