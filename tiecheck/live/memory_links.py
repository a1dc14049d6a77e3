"""Which tensors hang together by memory, and how: torch's tensors in, kinds and reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from tiecheck.files.strided_views import Shared, View, clusters, dense_view, shared
from tiecheck.live import torch_adapter
from tiecheck.records.words import Kind, weakest
from tiecheck.union_find import Parts


class Link(NamedTuple):
    """Different tensors that hang together by memory."""

    members: tuple[int, ...]
    """Their positions, in order."""
    kind: Kind
    """`storage`, `overlap`, or `unknown` where it could not be told."""
    reason: str | None
    """Why it could not be told."""


def memory_links(tensors: Sequence[Tensor]) -> list[Link]:
    """The groups of different tensors that share memory.

    Dense tensors of a CPU or GPU are compared by address, in one sort. The others (strided, meta, wrappers,
    lazy) get a closer look each. A tensor whose memory cannot be told is in no group.

    Args:
        tensors: Distinct tensor objects.

    Returns:
        Groups of two or more positions. Disjoint views of one storage are no group.
    """
    with torch_adapter.quiet():
        plain, rest = torch_adapter.spans(tensors)
        closer: list[tuple[int, View]] = []
        wrappers: dict[int, int] = {}
        for i in torch_adapter.without_lone(tensors, rest):
            found = torch_adapter.views(tensors[i]) or ()
            closer += [(i, view) for view in found]
            if len(found) > 1:
                wrappers[i] = len(found)
    owned = _suspects(plain, closer)
    groups = shared([view for _, view in owned])
    if not wrappers:
        return [Link(tuple(sorted(owned[k][0] for k in g.members)), g.kind, g.reason) for g in groups]
    return _join(groups, [i for i, _ in owned], wrappers)


def _suspects(plain: torch_adapter.Spans, closer: list[tuple[int, View]]) -> list[tuple[int, View]]:
    """The views that may share memory: those whose span meets another's, and those without plain addresses."""
    beside = [(i, view) for i, view in closer if view.space == torch_adapter.ADDRESS]
    owned = [(i, view) for i, view in closer if view.space != torch_adapter.ADDRESS]
    starts = plain.starts + [view.start for _, view in beside]
    for run in clusters(starts, plain.ends + [view.end for _, view in beside]):
        for k in run:
            if k < len(plain.starts):
                view = dense_view(torch_adapter.ADDRESS, plain.starts[k], plain.ends[k])
                owned.append((plain.positions[k], view))
            else:
                owned.append(beside[k - len(plain.starts)])
    return owned


def _join(groups: list[Shared], owners: list[int], wrappers: dict[int, int]) -> list[Link]:
    """Groups of tensors from groups of views, where a tensor may stand on several."""
    numbers = sorted(set(owners))
    at = {tensor: k for k, tensor in enumerate(numbers)}
    parts = Parts(len(numbers))
    for group in groups:
        for k in group.members:
            parts.join(at[owners[k]], at[owners[group.members[0]]])
    held: dict[int, list[Shared]] = {}
    for group in groups:
        held.setdefault(parts.find(at[owners[group.members[0]]]), []).append(group)
    links = []
    for part in parts.groups():
        members = tuple(numbers[k] for k in part)
        if len(members) > 1:
            below = held[parts.find(part[0])]
            kind = weakest(group.kind for group in below)
            whole = all({owners[k] for k in group.members} == set(members) for group in below)
            if kind == "storage" and not (whole and all(wrappers.get(i, 1) == len(below) for i in members)):
                kind = "overlap"
            links.append(Link(members, kind, next((g.reason for g in below if g.reason), None)))
    return links
