"""The memory of tensors: which of them share it, and the bytes of one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tiecheck.files.compare.spans import OpaqueError, Span
from tiecheck.files.strided_views import ByteView, Shared, dense_view, memory_groups, overlapping_runs
from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import look_up
from tiecheck.live.torch_adapter import PLAIN, TensorDescriber, why_values_are_elsewhere, without_torch_functions
from tiecheck.records.stored import StoredTensor
from tiecheck.records.words import Kind, weakest_kind
from tiecheck.union_find import DisjointParts


class Link(NamedTuple):
    """Different tensors that hang together by memory."""

    members: tuple[int, ...]
    """Their positions, in order."""
    kind: Kind
    """`storage`, `overlap`, or `unknown` where it could not be told."""
    reason: str | None
    """Reason for an `unknown`; None otherwise."""


def memory_links(tensors: Sequence[Tensor]) -> list[Link]:
    """Return the groups of different tensors that share memory, as positions; disjoint views of one are no group.

    Dense tensors of a CPU or GPU are compared by address, in one sort. The others (strided, meta, wrappers, lazy) get a
    closer look each. A tensor whose memory cannot be told is in no group.
    """
    with torch_adapter.without_torch_functions():
        plain, rest = torch_adapter.plain_spans(tensors)
        closer: list[tuple[int, ByteView]] = []
        wrappers: dict[int, int] = {}
        for i in torch_adapter.without_lone(tensors, rest):
            found = torch_adapter.memory_views(tensors[i]) or ()
            closer += [(i, view) for view in found]
            if len(found) > 1:
                wrappers[i] = len(found)
    owned = _suspects(plain, closer)
    groups = memory_groups([view for _, view in owned])
    if not wrappers:
        return [Link(tuple(sorted(owned[k][0] for k in g.members)), g.kind, g.reason) for g in groups]
    return _join(groups, [i for i, _ in owned], wrappers)


def _suspects(plain: torch_adapter.Spans, closer: list[tuple[int, ByteView]]) -> list[tuple[int, ByteView]]:
    """Return the views that may share memory: those whose span meets another's, and those without plain addresses."""
    beside = [(i, view) for i, view in closer if view.space == torch_adapter.ADDRESS]
    owned = [(i, view) for i, view in closer if view.space != torch_adapter.ADDRESS]
    starts = plain.starts + [view.start for _, view in beside]
    for run in overlapping_runs(starts, plain.ends + [view.end for _, view in beside]):
        for k in run:
            if k < len(plain.starts):
                view = dense_view(torch_adapter.ADDRESS, plain.starts[k], plain.ends[k])
                owned.append((plain.positions[k], view))
            else:
                owned.append(beside[k - len(plain.starts)])
    return owned


def _join(groups: list[Shared], owners: list[int], wrappers: dict[int, int]) -> list[Link]:
    """Join groups of views to groups of tensors, where a tensor may stand on several."""
    numbers = sorted(set(owners))
    at = {tensor: k for k, tensor in enumerate(numbers)}
    parts = DisjointParts(len(numbers))
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
            kind = weakest_kind(group.kind for group in below)
            whole = all({owners[k] for k in group.members} == set(members) for group in below)
            if kind == "storage" and not (whole and all(wrappers.get(i, 1) == len(below) for i in members)):
                kind = "overlap"
            links.append(Link(members, kind, next((g.reason for g in below if g.reason), None)))
    return links


class MemorySpan(Span):
    """The bytes of a tensor in memory, its elements as if they lay one after another."""

    def __init__(self, tensor: Tensor) -> None:
        """Keep the tensor; only one that is elsewhere, or lies strided, is copied."""
        self._kept = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        self.nbytes = self._kept.nbytes
        self.sparse = False
        held = self._kept.untyped_storage().nbytes() - self._kept.storage_offset() * self._kept.element_size()
        if held < self.nbytes:  # a storage that was freed or cut has no bytes behind its address
            raise OpaqueError(f"its storage holds {max(held, 0):,} bytes of {self.nbytes:,}")
        whole = (ctypes.c_char * self.nbytes).from_address(self._kept.data_ptr()) if self.nbytes else b""
        self._view = memoryview(whole).cast("B")

    @property
    def place(self) -> tuple[object, ...]:
        """The address: two spans of one memory are the same bytes."""
        return "memory", self._kept.data_ptr(), self.nbytes

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes, counted from the tensor's beginning."""
        return self._view[offset : offset + count].tobytes()


def open_tensor(module: nn.Module, name: str) -> tuple[StoredTensor, Span]:
    """Return dtype, shape and bytes of a parameter or buffer, or raise `OpaqueError` where they cannot be looked at."""
    tensor = look_up(module, name).tensor
    if tensor is None:
        raise OpaqueError(f"{name} is no tensor of the module")
    with torch.no_grad(), without_torch_functions():
        shape, dtype, nbytes, device = TensorDescriber().of(tensor)
        why = f"{name} is on meta, without values" if device == "meta" else why_values_are_elsewhere(tensor)
        if why is None and (type(tensor) not in PLAIN or nbytes is None):
            why = f"the values of {name} ({type(tensor).__name__}) are not looked at one by one"
        if why is not None:
            raise OpaqueError(why)
        return StoredTensor(name, dtype, shape or (), nbytes or 0, "", None), MemorySpan(tensor)
