"""Judges how some named members of a live module really hang together: the verdict on a declared group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import ONE_IN_THE_MAP, Member, look_up
from tiecheck.live.memory import Link, memory_links
from tiecheck.records.live import DeclaredTie
from tiecheck.records.words import Kind, weakest_kind

if TYPE_CHECKING:
    from tiecheck.live.transformers.declarations import DeclaredGroup

TRANSPOSED = "one is the transpose of the other, value by value, and was never tied"
ON_META = "on meta: the bytes cannot be read, identity is decisive"
NOT_INITIALISED = "not initialised yet: identity is decisive"
IN_THE_MAP = "offloaded by accelerate; these are the values that its map holds"
ON_DISK = "offloaded by accelerate into files with equal bytes, which does not tell whether they were one tensor"
HIDDEN = "offloaded by accelerate, whose map does not show the values"


class GroupVerdict(NamedTuple):
    """Verdict on how some members hang together."""

    kind: Kind
    reason: str | None
    """Limit of what could be told; None where there is none."""
    parts: tuple[tuple[str, ...], ...]
    """The members that exist, split into those that are one tensor; largest first, then by name."""
    links: tuple[tuple[Kind, tuple[str, ...]], ...]
    """The members that share memory without being one tensor."""


def find_declared_ties(module: nn.Module, groups: Sequence[DeclaredGroup]) -> tuple[DeclaredTie, ...]:
    """Hold groups that the classes of a module declare, by the names of that module, against what it really has."""
    found = []
    looks = torch_adapter.TensorDescriber()
    for group in groups:
        members = [look_up(module, name) for name in group.names]
        verdict = judge_members(members)
        held = {member.name: member for member in members}
        firsts = [held[part[0]] for part in verdict.parts]
        shapes = tuple(looks.of(one.tensor)[0] if one.tensor is not None else None for one in firsts)
        found.append(
            DeclaredTie(
                names=group.names,
                source=group.source,
                by=group.by,
                kind=verdict.kind,
                reason=verdict.reason,
                parts=verdict.parts,
                shapes=shapes,
                devices=tuple(one.device for one in firsts),
                missing=tuple(member.name for member in members if member.tensor is None),
                buffers=tuple(m.name for m in members if m.owner is not None and m.attribute in m.owner._buffers),
                unfit=tuple(filter(None, map(_unfit, members))) if len(set(shapes)) > 1 else (),
                biases=tuple(filter(None, map(_bias, members))) if len(set(shapes)) > 1 else (),
            )
        )
    return tuple(found)


SIZES = (("out_features", "in_features"), ("num_embeddings", "embedding_dim"))
"""The words of a linear layer, and of an embedding, for the shape of their weight."""


def _unfit(member: Member) -> str | None:
    """Return a member whose shape is not what its module says."""
    said = [tuple(getattr(member.owner, size, None) for size in sizes) for sizes in SIZES]
    shapes = [sizes for sizes in said if None not in sizes]
    there = member.attribute == "weight" and member.tensor is not None and bool(shapes)
    return member.name if there and member.tensor is not None and tuple(member.tensor.shape) not in shapes else None


def _bias(member: Member) -> str | None:
    """Return the bias beside a member."""
    found = getattr(member.owner, "_parameters", {}).get("bias")
    return f"{member.name.rpartition('.')[0]}.bias".lstrip(".") if found is not None else None


def empty_members(module: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return the members on meta of a group of which another member has data; those that a hook holds have theirs."""
    found = [member for member in (look_up(module, name) for name in names) if member.tensor is not None]
    empty = tuple(member.name for member in found if member.device == "meta")
    return empty if any(member.device != "meta" for member in found) else ()


def judge_members(members: Sequence[Member]) -> GroupVerdict:
    """Judge how two or more members hang together: the weakest link that still holds all of them, and their parts."""
    with torch_adapter.without_torch_functions():
        return _judge(members)


def _judge(members: Sequence[Member]) -> GroupVerdict:
    tensors: dict[int, Tensor] = {}
    held: dict[int, list[Member]] = {}
    at = {(id(member.owner), member.attribute): member.tensor for member in members if member.owner is not None}
    for member in members:  # a map of accelerate's reads a file anew for each look
        member = member._replace(tensor=at.get((id(member.owner), member.attribute), member.tensor))  # noqa: PLW2901
        if member.tensor is not None:
            tensors[id(member.tensor)] = member.tensor
            held.setdefault(id(member.tensor), []).append(member)
    parts = sorted((tuple(sorted(m.name for m in part)) for part in held.values()), key=lambda p: (-len(p), p))
    distinct = list(tensors.values())
    links = memory_links(distinct)
    named = [(link.kind, tuple(sorted(m.name for i in link.members for m in held[id(distinct[i])]))) for link in links]
    missing = [member.why for member in members if member.why is not None]
    elsewhere = [member for member in members if member.offloaded]
    kind: Kind
    reason: str | None
    if missing:
        kind, reason = "unknown" if any(member.packed for member in members) else "absent", "; ".join(missing)
    elif len(distinct) == 1:
        places = {(id(member.owner), member.attribute) for member in members}
        kind, reason = ("module" if len(places) == 1 else "parameter"), None
    elif any(member.tensor is not None and member.tensor.is_meta for member in elsewhere):
        kind, reason = "unknown", HIDDEN
    else:
        kind, reason = _apart(distinct, links)
        if kind == "copy" and all(member.on_disk for member in elsewhere) and elsewhere:
            kind, reason = "unknown", ON_DISK  # accelerate writes a tied tensor to two files
        elif elsewhere and kind == "storage":  # the hooks lay one memory under every name at each forward pass
            kind, reason, parts = "parameter", ONE_IN_THE_MAP, [tuple(sorted(m.name for m in members))]
        elif elsewhere:
            reason = reason or IN_THE_MAP
    return GroupVerdict(kind, reason, tuple(parts), tuple(named))


def _apart(tensors: list[Tensor], links: list[Link]) -> tuple[Kind, str | None]:
    """Return the kind that holds different tensors together, and the reason that limits it."""
    for tensor in tensors:
        reason = torch_adapter.why_values_are_elsewhere(tensor)
        if reason is not None:
            return "unknown", reason
    kinds: list[Kind] = [link.kind for link in links]
    reasons = [link.reason for link in links if link.reason]
    linked = {i: k for k, link in enumerate(links) for i in link.members}
    heads = [links[k].members[0] for k in range(len(links))] + [i for i in range(len(tensors)) if i not in linked]
    heads.sort()
    for i in heads[1:]:
        kind, reason = _compare(tensors[heads[0]], tensors[i])
        kinds.append(kind)
        if reason:
            reasons.append(reason)
    return weakest_kind(kinds), reasons[-1] if reasons else None


def _compare(a: Tensor, b: Tensor) -> tuple[Kind, str | None]:
    """Return True if two tensors over separate memory are copies of each other."""
    reason = torch_adapter.why_memory_is_hidden(a) or torch_adapter.why_memory_is_hidden(b)
    if reason:
        return "unknown", reason
    if is_lazy(a) or is_lazy(b) or a.is_meta or b.is_meta:
        return "separate", NOT_INITIALISED if is_lazy(a) or is_lazy(b) else ON_META
    if (a.dtype, a.device) != (b.dtype, b.device) or a.shape not in (b.shape, b.shape[::-1]):
        return "separate", None
    try:
        if a.shape != b.shape:
            turned = a.dim() == 2 and torch_adapter.equal_bytes(a.detach().t(), b)
            return "separate", TRANSPOSED if turned else None
        return ("copy" if torch_adapter.equal_bytes(a, b) else "separate"), None
    except Exception as error:  # noqa: BLE001  # whatever a foreign tensor raises: the bytes were not read
        return "unknown", f"the bytes could not be read ({type(error).__name__}: {error})"
