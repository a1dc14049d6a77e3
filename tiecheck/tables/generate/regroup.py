"""Finds the fields of a config, other than tie flags, under which a class has other groups of tied names."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from tiecheck.tables.generate.build import Groups
from tiecheck.tables.generate.perturb import Field, Perturber, SlowClassError
from tiecheck.tables.generate.probe import Probe, ProbedGroup, probe_class
from tiecheck.tables.generate.table import Hangs


class Regrouping(NamedTuple):
    """One field and a value of it under which the groups are others."""

    field: Field
    value: Any

    @property
    def switches(self) -> bool:
        """True for a truth value or a word, which the config has or has not; a number may be any."""
        return type(self.value) is not int

    def given(self) -> dict[str, Any]:
        """Return a config dict that says that alone."""
        return self.field.put({}, self.value)


def regrouping_values(asked: Probe) -> list[Regrouping]:
    """Return every truth value, word and number that, by itself, changes a class's groups from those of its default."""
    changer = Perturber(asked)
    found: list[Regrouping] = []
    with contextlib.suppress(SlowClassError):  # what was found until then
        changer.write_out()
        if not changer.base.groups:
            return []
        numbered = any(part.isdigit() for names in changer.base.groups for name in names for part in name.split("."))
        for level in changer.levels:
            _halve(changer, {f: v for f, v in changer.switches(level) if type(f.value) is bool}, found)
            for field, value in changer.switches(level):
                if type(field.value) is not bool:
                    _halve(changer, {field: value}, found)
            if numbered:
                _halve(changer, {f: f.value * 2 for f in changer.numbers(level) if type(f.value) is int}, found)
                for field in changer.counts(level):
                    _halve(changer, {field: field.value + 1}, found)
    return found


def _halve(changer: Perturber, changes: dict[Field, Any], found: list[Regrouping]) -> None:
    """Change some fields together, and in halves where that raises or regroups."""
    if not changes:
        return
    built = changer.built(changes)
    if not isinstance(built, str) and _alike(built.groups, changer.base.groups):
        return
    pairs = list(changes.items())
    if len(pairs) > 1:
        _halve(changer, dict(pairs[: len(pairs) // 2]), found)
        _halve(changer, dict(pairs[len(pairs) // 2 :]), found)
    elif not isinstance(built, str):
        found.append(Regrouping(*pairs[0]))


def _alike(one: Groups, other: Groups) -> bool:
    return one.keys() == other.keys()


Grouped = list[tuple[list[ProbedGroup], Probe, dict[tuple[str, ...], Hangs]]]
"""Groups that a class has under one config, what was built, and the fields that each hangs on."""


def groups_by_field(asked: Probe, groups: list[ProbedGroup]) -> Grouped:
    """Return the groups of a class, and those that it has under other values of single fields alone."""
    hangs: dict[tuple[str, ...], Hangs] = {group.names: {} for group in groups}
    found: Grouped = [(groups, asked, hangs)]
    for one in regrouping_values(asked):
        dotted = one.field.dotted
        others, built = _probed(asked, one) if one.switches else ([], None)
        if built is None:
            for told in hangs.values():
                told.setdefault("h", {})[dotted] = one.field.value
            continue
        theirs = {group.names: group for group in others}
        for group in groups:
            if theirs.get(group.names) != group:
                hangs[group.names].setdefault("f", {}).setdefault(dotted, []).append(one.value)
        own = [group for group in others if group not in groups]
        found.append((own, built, {group.names: {"c": {dotted: [one.value]}} for group in own}))
    return found


def _probed(asked: Probe, one: Regrouping) -> tuple[list[ProbedGroup], Probe | None]:
    try:
        return probe_class(asked.model_class, asked.config_class, one.given())
    except Exception:  # noqa: BLE001 - a class may refuse a value beside its full default
        return [], None
