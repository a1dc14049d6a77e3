"""The ties that a model has now, remembered, and held against the same names later, in it or in what was made of it.

A tie that was there is a declaration: who broke it is asked, not whether somebody had written it down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tiecheck.files.local import paused_collector
from tiecheck.live import torch_adapter
from tiecheck.live.group_kind import judge_members
from tiecheck.live.member_lookup import Member, look_up
from tiecheck.live.memory import memory_links
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.moved_members import in_wrappers, moved_member
from tiecheck.live.registrations import PlainReference, Registrations, looking_at, plain_references
from tiecheck.live.ties import ties_of
from tiecheck.live.wrappers import UserNames, child_through_wrappers, own_class, without_wrappers
from tiecheck.records.words import KINDS, TIED, Kind

FLATTENED = frozenset({"FSDP", "DeepSpeed"})
"""Wrappers that take the parameters out of their modules."""

CAP = 256
"""Names of a group that are remembered, at most."""


class TieVerdict(NamedTuple):
    """State of a remembered tie, where it is not what it was."""

    kind: Kind
    """The kind that it has now."""
    reason: str | None
    """Limit of what could be told, or what stands between."""
    parts: tuple[tuple[str, ...], ...]
    """The members that are one tensor now."""


class RememberedTie:
    """One group of names of a model, as it hung together."""

    def __init__(
        self,
        names: tuple[str, ...],
        kind: Kind,
        parts: tuple[tuple[str, ...], ...],
        references: dict[str, PlainReference],
        cls: type[nn.Module],
    ) -> None:
        self.cls = cls
        """The model's own class."""
        self.names = names
        """Registered names, sorted, without wrappers' own parts; then those of plain references."""
        self.kind = kind
        self.parts = parts
        """The names that are one tensor each: one part for a tie, several for shared memory."""
        self.references = references

    def holds(self, root: nn.Module) -> bool:
        """Tell quickly whether the names still are what they were: by identity, and memory where that was all."""
        tensors = {name: self.tensor(root, name) for name in self.names}
        if any(tensor is None for tensor in tensors.values()):
            members = in_wrappers(root, [self.member(root, name) for name in self.names])
            return not self.moved(root) and self.kind in TIED and judge_members(members).kind in TIED
        firsts = []
        for part in self.parts:
            held = {id(tensors[name]) for name in part}
            if len(held) != 1:
                return False
            firsts.append(cast("Tensor", tensors[part[0]]))
        if len(firsts) == 1:
            return True
        links = memory_links(firsts)
        whole = len(links) == 1 and len(links[0].members) == len(firsts)
        least: Kind = "storage" if self.kind in TIED else self.kind  # of a tie in the map of accelerate's hooks
        return whole and KINDS.index(links[0].kind) <= KINDS.index(least)

    def judge(self, root: nn.Module) -> TieVerdict | None:
        """Say how the names hang together now; None where the tie is as it was, or that cannot be told."""
        gone = {n for n, reference in self.references.items() if reference.holder(root) is None}
        members = [self.member(root, name) for name in self.names if name not in gone]  # whose module is not there
        verdict = judge_members(members)
        if verdict.kind == "unknown":
            packed = {(id(m.owner), m.attribute) for m in members if m.packed}
            apart = packed and (len(packed) > 1 or not all(m.packed for m in members))
            return TieVerdict("absent", verdict.reason, verdict.parts) if apart else None
        if verdict.kind == "absent":
            moved = in_wrappers(root, [moved_member(root, member) for member in members])
            verdict = judge_members(moved)
            if verdict.kind in TIED and self.kind in TIED:
                why = _why_not_used_alike(root, {member.attribute: member.name for member in moved})
                return TieVerdict(self.kind, why, verdict.parts) if why else None
        if verdict.kind == "absent" and not FLATTENED.isdisjoint(UserNames(ModuleGraph(root)).wrappers):
            return None  # its parameters stand in one flat tensor, under no names
        joined = all(any(set(part) - gone <= set(now) for now in verdict.parts) for part in self.parts)
        if joined and _level(verdict.kind) <= _level(self.kind):
            return None
        return TieVerdict(verdict.kind, verdict.reason, verdict.parts)

    def first_tensor(self, root: nn.Module) -> Tensor | None:
        """Return the tensor of its first name, as it is now."""
        return self.tensor(root, self.names[0])

    def is_in(self, root: nn.Module) -> bool:
        """Tell whether a model has these names: all that are registered, be they moved by a norm, or packed."""
        known = [moved_member(root, look_up(root, n)) for n in self.names if n not in self.references]
        held = [self.references[name].now(root) for name in self.references]
        return all(m.tensor is not None or m.packed for m in known) and all(one is not None for one in held)

    def place_in(self, root: nn.Module) -> tuple[str, nn.Module] | None:
        """Return where these names are in a model, and the prefix: it, or the one module in it of the first's class.

        Somebody's own wrapper is not known by its class. Of two that could be meant none is.
        """
        if self.is_in(root):
            return "", root
        below = ((name, module) for name, module in root.named_modules() if own_class(module) is self.cls)
        found: dict[int, tuple[str, nn.Module]] = {}
        for name, module in below:
            if self.is_in(module):
                found.setdefault(id(without_wrappers(module)), (f"{name}.", module))
        if len(found) != 1:
            return None
        ((prefix, place),) = found.values()
        return UserNames(ModuleGraph(root)).of(prefix), place

    def owners(self, root: nn.Module) -> Iterator[nn.Module]:
        """Yield the modules on the way to each name, the root first: what is registered in them may break the tie."""
        for name in self.names:
            module = root
            for label in name.split("."):
                yield from (module, without_wrappers(module))
                below = child_through_wrappers(module, label)
                if below is None:
                    yield from module.modules() if module is not root else ()  # what a wrapper has in its place
                    break
                module = below

    def member(self, root: nn.Module, name: str) -> Member:
        """Look one of its names up, as it is now."""
        reference = self.references.get(name)
        if reference is None:
            return look_up(root, name)
        tensor = reference.now(root)
        return Member(name, tensor, None, name, None if tensor is not None else f"`{name}` is gone")

    def tensor(self, root: nn.Module, name: str) -> Tensor | None:
        """Return the tensor of one of its names, as it is now."""
        return self.member(root, name).tensor

    def moved(self, root: nn.Module) -> tuple[tuple[str, str], ...]:
        """Return the names whose parameter pruning, a norm or a parametrization has moved, each with its new name."""
        members = (moved_member(root, look_up(root, name)) for name in self.names if name not in self.references)
        return tuple(
            (one.name, one.attribute) for one in members if one.tensor is not None and one.name != one.attribute
        )


def _level(kind: Kind) -> int:
    """Return how weakly a kind holds; a shared module and a shared parameter hold alike."""
    return 0 if kind in TIED else KINDS.index(kind)


def _why_not_used_alike(root: nn.Module, moved: dict[str, str]) -> str | None:
    """Return what stands between a shared parameter and one of its uses; None where all use the same weight."""
    from tiecheck.live.derived_weights import effects_of
    from tiecheck.rules.live.members import use_one_weight

    found = [effect for effect in effects_of(Registrations(root, buffers=True)) if effect.name in moved]
    changed = [effect for effect in found if effect.form == "changes"]
    plain = tuple(name for name in moved if name not in {effect.name for effect in found})
    if not changed or use_one_weight(changed, plain):
        return None
    return f"{moved[changed[0].name]} is used through {changed[0].by}, and another member is not"


def remember_ties(root: nn.Module) -> list[RememberedTie]:
    """Return what a module ties: parameters and buffers, shared memory, and plain lists of other modules' tensors."""
    with looking_at(root), paused_collector(), torch.no_grad():
        places = Registrations(root, buffers=True)
        user = UserNames(places.graph)
        references: dict[int, list[PlainReference]] = {}
        for one in plain_references(places):
            references.setdefault(id(one.tensor), []).append(one)
        found = list(_groups(root, places, user, references))
        spoken = {name for tie in found for name in tie.references}
        for held in references.values():
            if held[0].name not in spoken:
                own = user.all_of(places.names_of(held[0].tensor))
                found.append(_tie(root, (own,), "parameter", held))
    return found


def _groups(
    root: nn.Module, places: Registrations, user: UserNames, references: dict[int, list[PlainReference]]
) -> Iterator[RememberedTie]:
    for tie in ties_of(places, CAP):
        names = user.all_of(tie.names)
        parts: dict[int, list[str]] = {}
        more: list[PlainReference] = []
        for name in names:
            tensor = look_up(root, name).tensor
            if tensor is None:
                break
            if id(tensor) not in parts:
                more += references.get(id(tensor), [])
            parts.setdefault(id(tensor), []).append(name)
        else:
            if tie.kind in KINDS[:4] and len(names) > 1:
                yield _tie(root, tuple(map(tuple, parts.values())), tie.kind, more)


def _tie(root: nn.Module, parts: tuple[tuple[str, ...], ...], kind: Kind, held: list[PlainReference]) -> RememberedTie:
    """Return the tie of some parts; plain references are in that of their tensor."""
    named = {one.name: one for one in held}
    if len(parts) == 1:
        parts = ((*parts[0], *named),)
    elif named:  # shared memory: which part they are in is not looked at
        named = {}
    return RememberedTie(tuple(name for part in parts for name in part), kind, parts, named, own_class(root))


def sample_of(tensor: Tensor) -> bytes | None:
    """Return a few elements of a tensor, spread over it, as bytes; None where there are none to be read."""
    if type(tensor) not in torch_adapter.PLAIN or tensor.is_meta or tensor.numel() == 0:
        return None
    return bytes(spread_elements(tensor).contiguous().view(torch.uint8).numpy().tobytes())


def spread_elements(tensor: Tensor) -> Tensor:
    """Return a few elements of a tensor that has some, spread over it, on the CPU."""
    with torch.no_grad(), torch_adapter.without_torch_functions():
        flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()
        return flat[:: max(1, flat.numel() // 64)][:64].cpu()
