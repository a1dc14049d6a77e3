"""A copy under other names: by the values of a tie its members are found there, or it is said that they are not."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter

import torch
from torch import Tensor, nn

from tiecheck.guard.errors import TieWarning
from tiecheck.guard.remembered_ties import RememberedTie, sample_of, spread_elements
from tiecheck.guard.watched_ties import WatchedTie
from tiecheck.live.member_lookup import look_up
from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import UserNames, class_name, own_class
from tiecheck.records.life import UserLine
from tiecheck.wording import listed


def renamed_ties(watched: list[WatchedTie], tie: RememberedTie, root: nn.Module, line: UserLine) -> list[WatchedTie]:
    """Return a tie whose members stand apart in a copy under other names; warn where they cannot be placed there.

    None where the copy has the tie, or it is another model. Members are those of as many modules of the same classes,
    so that nothing else is called broken.
    """
    one = next(one for one in watched if one.tie is tie)
    old, names = one.model(), [name for name in tie.names if name not in tie.references]
    if old is None or (values := one.tensor()) is None:
        return []
    places = Registrations(root, buffers=True)
    user = UserNames(places.graph)
    alike = [tensor for tensor in places.tensors() if _same_values(tensor, values)]
    held = [user.all_of(places.names_of(tensor)) for tensor in alike]
    if not held or any(tensor is values for tensor in alike) or any(len(own) >= len(names) for own in held):
        return []
    found = tuple(sorted(name for own in held for name in own))
    if len(held) > 1 and _owners(root, found) == _owners(old, names):
        made = WatchedTie(weakref.ref(root), RememberedTie(found, tie.kind, (found,), {}, own_class(root)), line)
        made.breaks((line._replace(operation="what g.watch was given"), None, True))
        return [made]
    text = f"{class_name(root)} has the values of {listed(tie.names)} and none of these names, but {listed(found)}"
    warnings.warn_explicit(f"{text}: whether it keeps that tie is not looked at", TieWarning, line.path, line.line)
    return []


def _same_values(tensor: Tensor, values: Tensor) -> bool:
    """Tell whether a tensor holds some values, cast to its type; a constant could be anybody's."""
    if tensor.shape != values.shape or sample_of(tensor) is None or sample_of(values) is None:
        return False
    some, wanted = spread_elements(tensor), spread_elements(values)
    return bool((wanted != wanted[0]).any()) and torch.equal(some, wanted.to(some.dtype))


def _owners(root: nn.Module, names: tuple[str, ...] | list[str]) -> Counter[type]:
    owners = (look_up(root, name).owner for name in names)
    return Counter(type(None) if owner is None else own_class(owner) for owner in owners)
