"""A class as it told of itself, and the tensors of which it speaks under the names that a file gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tiecheck.tables.generate.spellings import NewerSpeller


class AskedClass(NamedTuple):
    """One class as it was told, in the words of JSON."""

    class_name: str
    kind: str
    """Its config class, as `config_kind` calls it."""
    parts: list[list[Any]]
    """(prefix, level, class, its config class) of each model inside."""
    witnesses: list[list[Any]]
    refused: list[list[Any]]
    aliases: dict[str, list[str]]
    own: list[str]
    """Modules of the task, beside a base model."""
    whole: bool = False
    """True where it was asked as a whole for what its parts did not tell."""
    switches: Sequence[list[Any]] = ()
    """The rules that `switch_rules` returns."""


Told = dict[tuple[str, str], AskedClass]


def tensor_names(model: Any, one: AskedClass, told: Told) -> dict[str, list[str]]:
    """Return the other names that the library saves tensors under, of which alone the table hears of some field."""
    finder = NewerSpeller(model, legacy=False)
    return lone_names(model.base_model_prefix, one, told, finder.spellings if finder.renamings else lambda _: ())


def lone_names(
    prefix: str, one: AskedClass, told: Told, spellings: Callable[[str], tuple[str, ...]]
) -> dict[str, list[str]]:
    """Return the tensors with other names that speak of a field of which none speaks that is saved under its own."""
    start, found, plain, spoken = f"{prefix}.", {}, set[str](), dict[str, set[str]]()
    for name, fields in _tensors(one, told):
        spoken.setdefault(name, set()).update(fields)
    for name, fields in spoken.items():
        known = [other + name.removeprefix(inside) for inside, all_of in one.aliases.items() for other in all_of]
        others = [other for other in spellings(name) if other.count(start) == name.count(start)]
        if others and not {*others, name.removeprefix(start)} & set(known):
            found[name] = sorted(others, key=lambda other: (len(other), other))[:2]
        else:
            plain |= fields
    return {name: others for name, others in found.items() if not spoken[name] <= plain}


def _tensors(one: AskedClass, told: Told, before: str = "", level: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield the tensors of which a class and the models inside it speak, and the fields that they speak of."""
    for name, *_, powers, guards in one.witnesses:
        yield before + name, {level + dotted for dotted in (*powers, *guards)}
    yield from ((before + name, {level + dotted for dotted in switches}) for name, _, switches, _ in one.switches)
    for prefix, dotted, *part in one.parts:
        if tuple(part) in told:
            yield from _tensors(
                told[part[0], part[1]], told, f"{before}{prefix}.", f"{level}{dotted}." if dotted else level
            )
