"""Weights in a pickle, written anew by torch: it alone writes them, and it loads tensors and plain data only."""

from __future__ import annotations

import zipfile
from typing import Any

import torch

from tiecheck.errors import TargetError
from tiecheck.records.edits import TensorChange


def rewrite_pickle(source: str, target: str, change: TensorChange) -> None:
    """Write a new pickle that holds the changed state dict of an old one. Memory that tensors share stays shared.

    Raises:
        TargetError: torch refuses the file.
    """
    held = _load(source)
    for key in change.below:
        held = held[key]
    kept = type(held)((change.rename.get(n, n), value) for n, value in held.items() if n not in change.drop)
    for name, of in change.copies.items():
        kept[name] = held[of].clone()
    if hasattr(held, "_metadata"):
        kept._metadata = held._metadata
    torch.save(kept, target)


def _load(source: str) -> Any:
    """Load tensors and plain data; off the disk as they are wanted, but for the form of before torch 1.6."""
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except Exception as error:
        raise TargetError(
            f"torch does not load {source}, and it is not changed: {str(error).splitlines()[0]}"
        ) from error
