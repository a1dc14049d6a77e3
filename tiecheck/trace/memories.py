"""The memory that a pass was seen to use: a parameter that `forward` makes itself is none of another module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tiecheck.trace.meta_results import without_transform


class Memories:
    """Where the followed tensors lie, and in which storages the ops of the pass put what they gave out."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sources: dict[tuple[int, int, int], Tensor] = {}
        self._made: set[int] = set()

    def note_source(self, source: Tensor, lies_as: Tensor) -> None:
        """Note a followed tensor, by its own memory or that of a tensor which stands for it."""
        place = _place(lies_as)
        if place:
            self._sources.setdefault(place, source)

    def note_made(self, outs: Iterable[Tensor]) -> None:
        """Note what an op of the pass gave out."""
        self._made.update(place[0] for place in map(_place, outs) if place)

    def is_of_the_pass(self, parameter: Tensor) -> bool:
        """Return True if a parameter that nobody told of lies in memory that the pass made, or in a source's."""
        place = _place(parameter)
        return place is not None and (place[0] in self._made or place in self._sources)

    def source_under(self, parameter: Tensor) -> Tensor | None:
        """Return the followed tensor in whose memory a parameter lies, as a whole."""
        place = _place(parameter)
        return None if place is None else self._sources.get(place)


def _place(tensor: Tensor) -> tuple[int, int, int] | None:
    """Return a plain tensor's storage (by its address, torch 2.13), where it begins in it, and its elements."""
    if type(tensor) not in {Tensor, nn.Parameter} or tensor.layout is not torch.strided:
        return None
    tensor = without_transform(tensor)
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.numel()
