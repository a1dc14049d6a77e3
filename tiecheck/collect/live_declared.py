"""How some named members of a live module really hang together: the verdict on a declared group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from tiecheck.collect import torch_adapter
from tiecheck.collect.live_links import Link, memory_links
from tiecheck.collect.transformers_adapter import DeclaredGroup
from tiecheck.facts import Kind, weakest
from tiecheck.facts_live import DeclaredTie

ON_META = "on meta: the bytes cannot be read, identity is decisive"
NOT_INITIALISED = "not initialised yet: identity is decisive"


class Member(NamedTuple):
    """A name looked up in a module."""

    name: str
    """The name."""
    tensor: Tensor | None
    """The parameter or buffer it names; None where it names none."""
    owner: nn.Module | None
    """The module that registers it, where one does."""
    attribute: str
    """Its attribute there."""
    why: str | None
    """Why there is none."""


class Verdict(NamedTuple):
    """How some members hang together."""

    kind: Kind
    """The kind of the group."""
    reason: str | None
    """What limits it."""
    parts: tuple[tuple[str, ...], ...]
    """The members that exist, split into those that are one tensor; largest first, then by name."""
    links: tuple[tuple[Kind, tuple[str, ...]], ...]
    """The members that share memory without being one tensor."""


def declared_ties(module: nn.Module, groups: Sequence[DeclaredGroup]) -> tuple[DeclaredTie, ...]:
    """Hold declared groups against what a module really has.

    Args:
        module: The module that the names count from.
        groups: What its classes declare.

    Returns:
        One record a group, in the order of the groups.
    """
    found = []
    for group in groups:
        verdict = judge([look_up(module, name) for name in group.names])
        found.append(DeclaredTie(group.names, group.source, group.by, verdict.kind, verdict.reason, verdict.parts))
    return tuple(found)


def look_up(module: nn.Module, name: str) -> Member:
    """Find a parameter or buffer by its dotted name, as torch 2.13 `nn.Module.get_parameter` does.

    An attribute that passes on another module's parameter counts (a LoRA layer's `weight`), one that computes a
    tensor does not.
    """
    *path, attribute = name.split(".")
    owner: nn.Module | None = module
    for label in path:
        owner = owner._modules.get(label) if owner is not None and label in owner._modules else None
    if owner is None:
        return Member(name, None, None, attribute, f"`{name}` does not exist")
    for registry in (owner._parameters, owner._buffers):
        if attribute in registry and registry[attribute] is not None:
            return Member(name, registry[attribute], owner, attribute, None)
    if torch_adapter.parametrized(owner, attribute):
        return Member(name, None, owner, attribute, f"`{name}` is computed by a parametrization")
    try:
        passed = getattr(owner, attribute, None)
    except Exception:  # noqa: BLE001  # a property runs code of the model's
        passed = None
    if isinstance(passed, nn.Parameter):
        return Member(name, passed, owner, attribute, None)
    why = f"`{name}` is computed, not registered" if isinstance(passed, Tensor) else f"`{name}` does not exist"
    return Member(name, None, owner, attribute, why)


def judge(members: Sequence[Member]) -> Verdict:
    """How some members hang together: the weakest link that still holds all of them.

    Args:
        members: Two or more names, looked up.

    Returns:
        The kind, and how the members fall into parts.
    """
    with torch_adapter.quiet():
        return _judge(members)


def _judge(members: Sequence[Member]) -> Verdict:
    tensors: dict[int, Tensor] = {}
    held: dict[int, list[Member]] = {}
    for member in members:
        if member.tensor is not None:
            tensors[id(member.tensor)] = member.tensor
            held.setdefault(id(member.tensor), []).append(member)
    parts = sorted((tuple(sorted(m.name for m in part)) for part in held.values()), key=lambda p: (-len(p), p))
    distinct = list(tensors.values())
    links = memory_links(distinct)
    named = [(link.kind, tuple(sorted(m.name for i in link.members for m in held[id(distinct[i])]))) for link in links]
    missing = [member.why for member in members if member.why is not None]
    kind: Kind
    reason: str | None
    if missing:
        kind, reason = "absent", "; ".join(missing)
    elif len(distinct) == 1:
        places = {(id(member.owner), member.attribute) for member in members}
        kind, reason = ("module" if len(places) == 1 else "parameter"), None
    else:
        kind, reason = _apart(distinct, links)
    return Verdict(kind, reason, tuple(parts), tuple(named))


def _apart(tensors: list[Tensor], links: list[Link]) -> tuple[Kind, str | None]:
    """What holds different tensors together."""
    for tensor in tensors:
        reason = torch_adapter.placeholder(tensor)
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
    return weakest(kinds), reasons[-1] if reasons else None


def _compare(a: Tensor, b: Tensor) -> tuple[Kind, str | None]:
    """Whether two tensors over separate memory are copies of each other."""
    reason = torch_adapter.opaque(a) or torch_adapter.opaque(b)
    if reason:
        return "unknown", reason
    if torch_adapter.lazy(a) or torch_adapter.lazy(b):
        return "separate", NOT_INITIALISED
    if a.is_meta or b.is_meta:
        return "separate", ON_META
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return "separate", None
    try:
        return ("copy" if torch_adapter.equal_bytes(a, b) else "separate"), None
    except Exception as error:  # noqa: BLE001  # whatever a foreign tensor raises: the bytes were not read
        return "unknown", f"the bytes could not be read ({type(error).__name__}: {error})"
