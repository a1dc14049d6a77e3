"""The user's own word on ties: groups of names that are one tensor, for models that declare nothing.

Written in the configuration file or given to a Python function, it is read here, so that each says the same of a slip.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tiecheck.errors import UsageError

Groups = tuple[tuple[str, ...], ...]
"""Disjoint groups of two or more names, as they were written."""

GIVEN = "the ties= that were given"
"""Origin of a contract that is no file's."""


def read_contract(value: Any, where: str) -> dict[str, Groups]:
    """Read groups by class name or dotted path; tables within tables are a path that was written without quotes.

    Anything else is a `UsageError` of one sentence, with where it stands.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must give each class its groups of names, not {_shown(value)}")
    found: dict[str, Groups] = {}
    for name, groups in value.items():
        if not isinstance(name, str) or not all(part.strip() for part in name.split(".")):
            raise UsageError(f"{where}: {name!r} is no class; write its name or its dotted path")
        if "*" in name:
            raise UsageError(f"{where}: {name!r} is no class; a contract is one class's, so name each")
        place = f"{where}.{name if name.isprintable() else repr(name)}"
        if isinstance(groups, Mapping):
            found |= {f"{name}.{inner}": held for inner, held in read_contract(groups, place).items()}
        else:
            found[name] = read_groups(groups, place)
    return found


def read_groups(value: Any, where: str) -> Groups:
    """Read some groups: two or more different names each, and no name in two of them; else a `UsageError`.

    A `*` in a name stands for one part of it: `layers.*.rel_bias.weight`; what it fits is looked up in the module.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f'{where} must be a list of groups, as [["a.weight", "b.weight"]], not {_shown(value)}')
    groups = tuple(_group(group, where) for group in value)
    seen: set[str] = set()
    for name in (name for group in groups for name in group):
        if name in seen:
            raise UsageError(f"{where}: {name!r} is in two groups; names that are one tensor make one group")
        seen.add(name)
    return groups


def _group(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f'{where}: a group is a list of names, as ["a.weight", "b.weight"], not {_shown(value)}')
    names = tuple(value)
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    if odd:
        raise UsageError(f"{where}: a group holds names, not {_shown(odd[0])}")
    if len(set(names)) < max(1 if any("*" in name for name in names) else 2, len(names)):
        raise UsageError(f"{where}: a group has two or more different names, not {_shown(list(names))}")
    return names


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
