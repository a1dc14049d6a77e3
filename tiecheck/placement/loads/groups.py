"""The groups that the loads are told for: by a class's declaration, or by what a live module really ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from tiecheck.peers.views.sight import Sight, united
from tiecheck.placement.loads.slots import LoadGroup


def declared_groups(
    pairs: Mapping[str, str], stored: Iterable[str], equal: Mapping[tuple[str, ...], bool] | None = None
) -> tuple[LoadGroup, ...]:
    """The groups of a transformers class.

    Args:
        pairs: Target -> source in their order, `model.all_tied_weights_keys`.
        stored: The names that the checkpoint stores, in the model's own words.
        equal: Names of a group, sorted -> whether its stored members are equal, where that is known.
    """
    there = set(stored)
    return tuple(
        LoadGroup(
            names,
            tuple((target, source) for target, source in pairs.items() if target in names),
            stored=tuple(name for name in names if name in there),
            equal=(equal or {}).get(names),
        )
        for names in united(pairs.items())
    )


def live_groups(module: nn.Module, stored: Iterable[str] = ()) -> tuple[LoadGroup, ...]:
    """The groups of parameters that are one object, as accelerate from 0.34 finds them.

    Args:
        module: A module; nothing of it is changed.
        stored: The names that the checkpoint stores.

    Raises:
        RecursionError: A registered cycle.
        tiecheck.peers.views.paths.Endless: Too many names.
    """
    there = set(stored)
    groups = []
    for names in Sight(module).tied:
        slots: dict[tuple[int, str], int] = {}
        numbers = []
        for name in names:
            path, _, last = name.rpartition(".")
            numbers.append(slots.setdefault((id(module.get_submodule(path)), last), len(slots)))
        kept = tuple(name for name in names if name in there)
        groups.append(LoadGroup(names, (), stored=kept, slots=tuple(numbers)))
    return tuple(groups)
