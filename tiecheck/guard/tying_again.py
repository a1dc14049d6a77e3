"""Ties a broken tie again, where no value can be lost by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.guard.remembered_ties import RememberedTie
from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import look_up
from tiecheck.records.life import Break
from tiecheck.records.words import TIED


def retie(root: nn.Module | None, tie: RememberedTie, broken: Break) -> str | None:
    """Tie the members of a broken tie again to one with data, and return None; or why it was not done.

    Members with different values are not tied: nobody knows which is right.
    """
    if root is None:
        return "the model is gone"
    members = [look_up(root, name) for name in tie.names if name not in tie.references]
    tensors = [member.tensor for member in members]
    if any(tensor is None for tensor in tensors) or tie.kind not in TIED or broken.after in TIED:
        return "what became of a member is no parameter of its name"
    full = [tensor for tensor in tensors if tensor is not None and not tensor.is_meta] or tensors
    if not broken.alike and not all(_alike(full[0], tensor) for tensor in full[1:]):
        return "the members have different values now, and nobody knows which are right; assign the one that is"
    kept: Any = full[0]
    for member in members:
        if member.tensor is not kept and member.owner is not None:
            held = member.owner._parameters if member.attribute in member.owner._parameters else member.owner._buffers
            if member.attribute in member.owner._parameters and not isinstance(kept, nn.Parameter):
                return "one member is a buffer and another a parameter"
            held[member.attribute] = kept
    for reference in tie.references.values():
        owner = reference.holder(root)
        holder: Any = vars(owner)[reference.attribute] if owner is not None else None
        if reference.now(root) is not kept:
            try:
                holder[reference.key] = kept
            except TypeError:
                return f"{reference.name} cannot be assigned"
    return None


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    if one.is_meta:
        return True
    with torch.no_grad():
        return torch_adapter.equal_bytes(one, other)
