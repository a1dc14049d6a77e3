"""Finds numbers of a config that point into a table of the model, which a class does not build where they point beyond.

Such is the `padding_idx` of an embedding: torch refuses one that is no row of it, counted from either end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from tiecheck.tables.generate.asked_class import AskedClass
from tiecheck.tables.generate.classes import class_candidates, resolve_classes
from tiecheck.tables.generate.config_states import config_kind
from tiecheck.tables.generate.configs import Level
from tiecheck.tables.generate.perturb import Field, Perturber, SlowClassError
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.generate.sizes import held_in, parts_of

POINTERS = re.compile(r"(?:^|_)(?:id|idx|index)$")
"""Keys of the fields that may point at a row."""

BEYOND = 10_000_019
"""A number that no table is as long as."""

Row = list[Any]


def table_bounds(asked: Perturber, levels: list[Level]) -> list[Row]:
    """Return (field, `<`, ((the number of rows, None),)) for each field of some levels that has to point at a row."""
    found: list[Row] = []
    try:
        for level in levels:
            for field in _refused(asked, list(_pointers(asked, level))):
                longer: dict[Field, int] = {}  # a field may point into two tables (RoBERTa's words and positions)
                if _rows_of(asked, field, longer) is None:  # one may have more rows than any number (M2M100's, by two)
                    longer = {number: 2 * BEYOND for number in _numbers(asked) if "position" in number.key}
                while (rows := _rows_of(asked, field, longer)) is not None:
                    found.append([field.dotted, "<", [[rows.dotted, None]]])
                    longer[rows] = 2 * BEYOND
    except SlowClassError:
        pass
    return found


def left_bounds(told: list[AskedClass]) -> list[AskedClass]:
    """Return classes without the rows of which a model inside tells."""
    rows = {one[:2]: [row for row in one.refused if row[1] == "<"] for one in told}
    left = []
    for one in told:
        inside = [
            [before + field, word, [[before + others[0][0], None]]]
            for _, level, *part in one.parts
            for before in (f"{level}." if level else "",)
            for field, word, others in rows.get((part[0], part[1]), ())
        ]
        left.append(one._replace(refused=[row for row in one.refused if row not in inside]))
    return left


def bounds_of_kinds() -> dict[str, list[list[str]]]:
    """Return by config class what its classes tell, and the models inside them: pairs of a field and the rows."""
    found: dict[str, set[tuple[str, str]]] = {}
    for _, kind, _, rows in bounds_of_classes():
        found.setdefault(kind, set()).update((field, others[0][0]) for field, _, others in rows)
    return {kind: sorted(map(list, pairs)) for kind, pairs in found.items() if pairs}


def bounds_of_classes() -> Iterator[tuple[str, str, list[list[str]], list[Row]]]:
    """Yield each class, and each model inside one: its config class, its parts, and what it tells of all its config."""
    for name, kind, asked in each_class():
        parts = []
        for part in parts_of(asked.model, held_in(asked.model.config, asked.levels)):
            module = asked.model.get_submodule(part.prefix)
            parts.append([part.prefix, ".".join(part.level), type(module).__name__, config_kind(type(module.config))])
        yield name, kind, parts, table_bounds(asked, asked.levels)


def each_class(wanted: Callable[[str, str], bool] = lambda *_: True) -> Iterator[tuple[str, str, Perturber]]:
    """Yield each wanted class that builds, and each model inside one, with its config class."""
    todo, done = dict[tuple[str, str], tuple[Any, Any]](), set[tuple[str, str]]()
    for candidate in class_candidates():
        with contextlib.suppress(AttributeError, ImportError):
            model_class, config_class = resolve_classes(candidate)
            if wanted(candidate.class_name, config_kind(config_class)):
                todo[candidate.class_name, config_kind(config_class)] = model_class, config_class
    while todo:
        key, classes = todo.popitem()
        done.add(key)
        with contextlib.suppress(Exception):  # a class may not build by default
            asked = Perturber(Probe(*classes, {}))
            for part in parts_of(asked.model, held_in(asked.model.config, asked.levels)):
                module = asked.model.get_submodule(part.prefix)
                inside = type(module).__name__, config_kind(type(module.config))
                if inside not in done:
                    todo[inside] = type(module), type(module.config)
            yield *key, asked


def _pointers(asked: Perturber, level: Level) -> Iterator[Field]:
    for key, value in sorted(asked.owners[level].to_dict().items()):
        if POINTERS.search(key) and type(value) in (int, type(None)):
            yield Field(level, key, -1, value)


def _refused(asked: Perturber, fields: list[Field]) -> list[Field]:
    """Return the fields that a class refuses to be beyond every table; most refuse none, and are built once."""
    if not fields or not isinstance(asked.built(dict.fromkeys(fields, BEYOND)), str):
        return []
    if len(fields) == 1:
        return fields
    half = len(fields) // 2
    return [*_refused(asked, fields[:half]), *_refused(asked, fields[half:])]


def _numbers(asked: Perturber) -> Iterator[Field]:
    for level, owner in asked.owners.items():
        for key, value in owner.to_dict().items():
            if type(value) is int and value > 0:
                yield Field(level, key, -1, value)


def _rows_of(asked: Perturber, field: Field, longer: dict[Field, int]) -> Field | None:
    """Return the number of rows: the least that is refused, unless it is made one more; as far below zero it is too.

    What was found before is `longer` meanwhile.
    """

    def refuses(value: int, more: dict[Field, int] | None = None) -> bool:
        return isinstance(asked.built({field: value, **longer, **(more or {})}), str)

    numbers = [number for number in _numbers(asked) if number not in longer]
    sizes = sorted({number.value for number in numbers})
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if refuses(sizes[middle]) else (middle + 1, high)
    if low == len(sizes) or refuses(sizes[low] - 1) or not refuses(-sizes[low] - 1) or refuses(-sizes[low]):
        return None
    many = [n for n in numbers if n.value == sizes[low] and n != field]
    rows = [n for n in many if not refuses(sizes[low], {n: n.value + 1})]
    if not rows and many and not refuses(sizes[low], {n: n.value + 1 for n in many}):  # they have to be one number
        rows = [n for n in many if n.level == field.level]
    return rows[0] if len(rows) == 1 else None
