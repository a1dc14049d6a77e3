"""A few rows of stored tensors, to tell whether a loaded tensor is what its checkpoint holds."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from tiecheck.errors import TiecheckError
from tiecheck.live import torch_adapter
from tiecheck.records.stored import Checkpoint

ROWS = 32
"""Rows that are compared at each end of a tensor."""

PLAIN = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
"""Element types between which a load only casts."""


class StoredRows:
    """The tensors of a local safetensors checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @classmethod
    def at(cls, path: str) -> StoredRows | None:
        """The checkpoint at a path; None where there is no local safetensors file that can be read."""
        from tiecheck.files.checkpoint import read_checkpoint

        if not os.path.exists(path):
            return None
        try:
            checkpoint = read_checkpoint(path)
        except TiecheckError:
            return None
        return cls(checkpoint) if checkpoint is not None and checkpoint.format == "safetensors" else None

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of some names it stores."""
        return tuple(name for name in names if name in self._checkpoint)

    def differ(self, names: Sequence[str], loaded: Tensor | None) -> tuple[str, ...] | None:
        """The stored members of a group, where a loaded tensor has the values of none of them.

        Args:
            names: The group.
            loaded: Its one tensor.

        Returns:
            Their names; None where the values are those of a member, or the two cannot be compared: none is stored
            under its own name, another shape, quantised values, no values at all.
        """
        if loaded is None or type(loaded) not in torch_adapter.PLAIN:  # a quantised one shows a dtype it has not
            return None
        if loaded.is_meta or loaded.dtype not in PLAIN or loaded.dim() == 0:
            return None
        compared = []
        for name in names:
            ends = self._ends(name)
            if ends is None:
                continue
            shape, dtype, pieces = ends
            if shape != tuple(loaded.shape) or dtype not in PLAIN:
                return None
            if all(map(_equal, pieces, (loaded[:ROWS], loaded[-ROWS:]))):
                return None
            compared.append(name)
        return tuple(compared) or None

    def _ends(self, name: str) -> tuple[tuple[int, ...], torch.dtype, tuple[Tensor, Tensor]] | None:
        """Shape, element type, and the first and last rows of a stored tensor."""
        from safetensors import safe_open

        stored = self._checkpoint.tensor(name)
        if stored is None or not stored.shape:
            return None
        try:
            with safe_open(os.path.join(self._checkpoint.root, stored.file), framework="pt") as opened:
                rows = opened.get_slice(name)
                first, last = rows[:ROWS], rows[max(0, stored.shape[0] - ROWS) :]
        except Exception:  # noqa: BLE001  # a file that is gone or broken: nothing to compare with
            return None
        return stored.shape, first.dtype, (first, last)


def _equal(stored: Tensor, loaded: Tensor) -> bool:
    """Whether stored rows, cast as a load casts them, are the loaded ones."""
    return torch_adapter.equal_bytes(stored.to(loaded.dtype).contiguous(), loaded.detach().cpu().contiguous())
