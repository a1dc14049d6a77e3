"""Where a named member of a tie is after somebody wrapped its module, pruned it or parametrised it."""

from __future__ import annotations

from itertools import filterfalse, islice

from torch import Tensor, nn

from tiecheck.live.member_lookup import Member, look_up
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import UserNames, without_wrappers
from tiecheck.wording import listed


def moved_member(root: nn.Module, member: Member) -> Member:
    """Return the parameter that pruning, a norm or a parametrization has moved a member to, by its new name."""
    if member.tensor is not None:
        return member._replace(attribute=member.name)
    path, _, attribute = member.name.rpartition(".")
    start = f"{path}." if path else ""
    for name in (
        f"{start}{attribute}_orig",
        f"{start}parametrizations.{attribute}.original",
        f"{start}parametrizations.{attribute}.original1",
        f"{start}{attribute}_v",
    ):
        found = look_up(root, name)
        if found.tensor is not None:
            return found._replace(name=member.name, attribute=name)
    return member


def in_wrappers(root: nn.Module, members: list[Member]) -> list[Member]:
    """Return some members, each that is gone with the tensor of all others that the module in its place has below.

    A layer of anyone's that took the place of the head, and holds it or reads the embedding, keeps the tie.
    """
    held: dict[str, dict[int, Tensor]] = {}
    there = frozenset(member.name for member in members if member.tensor is not None)
    for member in members:
        found = {id(member.tensor): member.tensor} if member.tensor is not None else {}
        if member.tensor is None:  # pruning and norms keep what they change
            below = _below(root, member.name, there).items()  # a bias beside another member of its own is no wrapper's
            found = {id(tensor): tensor for path, tensor in below if not _is_raw(path.rpartition(".")[2])}
        held[member.name] = found
    common = set.intersection(*(set(found) for found in held.values()))
    if len(common) != 1:
        return members
    (one,) = common
    return [m if m.tensor is not None else m._replace(tensor=held[m.name][one], why=None) for m in members]


def names_now(root: nn.Module, names: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the names that a promised group has now, and the reason where it cannot be told which is meant.

    They are looked for in the model, and where it has none of them in the one module of it that has all: a wrapper of
    anyone's holds it. Names that are found nowhere stay as they are.
    """
    if all(look_up(root, name).tensor is not None for name in names):
        return names, None
    if any(is_there(root, name) for name in names):
        return _told(root, names)
    found: dict[int, tuple[str, nn.Module]] = {}
    for path, module in root.named_modules():
        if path and all(is_there(module, name) for name in names):
            found.setdefault(id(without_wrappers(module)), (path, module))
    if len(found) != 1:
        places = tuple(path for path, _ in found.values())
        return names, f"{listed(places)} have all of these names, and one of them is meant" if found else None
    ((path, place),) = found.values()
    inner, why = _told(place, names)
    user = UserNames(ModuleGraph(root))
    return tuple(user.of(f"{path}.{name}") for name in inner), why


def is_there(root: nn.Module, name: str) -> bool:
    """Tell whether a module has a name, be it of a member that was moved, or whose layer was wrapped."""
    member = moved_member(root, look_up(root, name))
    return member.tensor is not None or member.computed or bool(_candidates(root, name))


def _told(root: nn.Module, names: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the present names of members of which one at least is there, and why that cannot be told."""
    moved = [moved_member(root, look_up(root, name)) for name in names]
    held = [{m.attribute: m.tensor} if m.tensor is not None else _candidates(root, m.name) for m in moved]
    common = set.intersection(*({id(tensor) for tensor in one.values()} for one in held))
    shapes = {member.tensor.shape for member in moved if member.tensor is not None}
    now = []
    for member, one in zip(moved, held, strict=True):
        fits = [name for name, tensor in one.items() if id(tensor) in common]
        if not fits and member.computed:
            return names, member.why
        if not fits and member.tensor is not None and member.attribute != member.name:
            return names, f"`{member.name}` is computed from {member.attribute}, which no other member is"
        fits = fits or [name for name, tensor in one.items() if not shapes or tensor.shape in shapes]
        if len(fits) > 1:
            return names, f"{listed(tuple(fits))} are in the place of `{member.name}`, and one of them is meant"
        now.append(fits[0] if fits else member.name)
    return tuple(now), None


def _candidates(root: nn.Module, name: str) -> dict[str, Tensor]:
    """Return what the module that took the place of a member's own registers below it as the member was registered."""
    attribute = name.rpartition(".")[2]
    return {path: t for path, t in _below(root, name).items() if path.rpartition(".")[2] == attribute}


def _below(root: nn.Module, name: str, others: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """Return each tensor that the module in the place of a member's own registers, by one name that no other has."""
    place = look_up(root, name).owner
    if place is None or place is root or place is without_wrappers(root):
        return {}
    places = Registrations(place, buffers=True)
    found: dict[str, Tensor] = {}
    for first in places.firsts:
        names = (f"{name.rpartition('.')[0]}.{own}" for p in places.places_of(first) for own in places.names_at(p))
        found |= dict.fromkeys(islice(filterfalse(others.__contains__, names), 1), places.objects[first])
    return found


def _is_raw(attribute: str) -> bool:
    return attribute.startswith("original") or attribute.endswith("_orig")
