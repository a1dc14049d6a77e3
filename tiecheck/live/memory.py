"""The memory of tensors: which of them share it, and how much some of them take, ties once, overlaps not double."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tiecheck.files.compare.spans import OpaqueError, Span
from tiecheck.files.covered_bytes import count_covered_bytes
from tiecheck.files.strided_views import ByteView, Shared, dense_view, memory_groups, overlapping_runs
from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import look_up
from tiecheck.live.torch_adapter import PLAIN, TensorDescriber, why_values_are_elsewhere, without_torch_functions
from tiecheck.records.stored import StoredTensor
from tiecheck.records.words import Kind, weakest_kind
from tiecheck.union_find import DisjointParts

MESHED = "sharing memory as strided views over so wide a span that it is too much to tell how much"
UNLIKE = "sharing memory as other element types or in other forms, which has no one number of elements"


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


class Amount(NamedTuple):
    """An amount of elements and of bytes; None where it cannot be told."""

    elements: int | None
    nbytes: int | None


UNTOLD = Amount(None, None)


class TensorSizes:
    """The sizes of some distinct tensors, and the memory that they share."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Measure some distinct tensors; no element is read."""
        self.tensors = tensors
        self.limits: Counter[str] = Counter()
        """Limits of the figures, in words that follow "2 tensors: " -> how many tensors each goes for."""
        self._memory: dict[int, Amount] = {}  # what a tensor stands on, where that is not what it says
        with torch_adapter.without_torch_functions():
            plain = torch_adapter.plain_sizes(tensors)
            looks = [self._look(i, tensor) for i, tensor in enumerate(tensors)] if plain is None else []
            self.elements: Sequence[int | None] = plain[0] if plain else [look.elements for look in looks]
            """Elements of each, as `numel()` says: of a sharded tensor all of them."""
            self.nbytes: Sequence[int | None] = plain[1] if plain else [look.nbytes for look in looks]
            """Bytes of each: of a wrapper those of what it wraps here."""
            self._links = memory_links(tensors)
        self._linked = {i for link in self._links for i in link.members}

    def _look(self, i: int, tensor: Tensor) -> Amount:
        """Return elements and bytes of one tensor; notes where its memory is another amount."""
        plain = torch_adapter.plain_sizes((tensor,))
        if plain is not None:
            return Amount(plain[0][0], plain[1][0])
        elements = torch_adapter.elements_of(tensor)
        if isinstance(elements, str):
            self.limits[elements] += 1
            return UNTOLD
        why = torch_adapter.why_memory_is_hidden(tensor)
        views = None if why else torch_adapter.memory_views(tensor)
        if views is None:
            self.limits[why or "the memory cannot be told"] += 1
            self._memory[i] = UNTOLD
            return Amount(elements, None)
        memory, width = count_covered_bytes(views), tensor.element_size()
        if torch_adapter.wrapped_tensors(tensor):
            if memory != elements * width:
                word = type(tensor).__name__
                self.limits[f"the bytes are those that the {word} holds in this process"] += 1
            return Amount(elements, memory)
        nbytes = tensor.numel() * width
        if memory is None:
            self.limits[MESHED] += 1
        if memory != nbytes:  # an expanded tensor stands on less than it says
            self._memory[i] = UNTOLD if memory is None else Amount(memory // width, memory)
        return Amount(elements, nbytes)

    def once(self, among: Collection[int]) -> Amount:
        """Return the memory of the tensors at some positions, each byte once."""
        alone = [i for i in among if i not in self._linked and i not in self._memory]
        parts = [self._memory[i] for i in self._memory if i not in self._linked and i in among]
        parts += [self._union(link, [i for i in link.members if i in among]) for link in self._links]
        parts.append(
            Amount(sum_if_known([self.elements[i] for i in alone]), sum_if_known([self.nbytes[i] for i in alone]))
        )
        return Amount(sum_if_known([part.elements for part in parts]), sum_if_known([part.nbytes for part in parts]))

    def partners(self, some: Collection[int]) -> set[int]:
        """Return other tensors that share memory with some of them, through others too."""
        near = {i for link in self._links if any(i in some for i in link.members) for i in link.members}
        return near.difference(some)

    def _union(self, link: Link, members: list[int]) -> Amount:
        """Return the memory that some members of a link stand on."""
        if len(members) < 2:
            return self._alone(members[0]) if members else Amount(0, 0)
        if link.kind == "unknown":
            self.limits[MESHED] = max(self.limits[MESHED], len(link.members))
            return UNTOLD
        with torch_adapter.without_torch_functions():
            nbytes = count_covered_bytes(
                [view for i in members for view in torch_adapter.memory_views(self.tensors[i]) or ()]
            )
        if nbytes is None:
            self.limits[MESHED] = max(self.limits[MESHED], len(link.members))
            return UNTOLD
        return Amount(self._elements(link, members, nbytes), nbytes)

    def _alone(self, i: int) -> Amount:
        """Return the memory that one tensor stands on."""
        return self._memory.get(i, Amount(self.elements[i], self.nbytes[i]))

    def _elements(self, link: Link, members: list[int], nbytes: int) -> int | None:
        """Return how many elements the bytes are that some members of a link share."""
        alike = {self._alone(i) for i in members}
        if link.kind == "storage" and len(alike) == 1:
            return alike.pop().elements
        widths = {self.tensors[i].element_size() for i in members}
        if len(widths) == 1 and not any(torch_adapter.wrapped_tensors(self.tensors[i]) for i in members):
            return nbytes // widths.pop()
        self.limits[UNLIKE] = max(self.limits[UNLIKE], len(members))
        return None


def sum_if_known(values: Sequence[int | None]) -> int | None:
    """Return the sum of some amounts; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


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
