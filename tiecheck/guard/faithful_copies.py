"""A copy of a live model that keeps every tie as it is: the same objects, and the same memory, under the same names.

`copy.deepcopy` of torch 2.13 clones each parameter, so that two over one memory come out as two memories; here each
storage is copied once, and the rest of the model is left to `deepcopy`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.errors import TargetError, exception_line
from tiecheck.live.plain_references import plain_references
from tiecheck.live.registrations import Registrations
from tiecheck.live.torch_adapter import PLAIN

LIMIT = 4 << 30
"""Bytes of tensors that a model may have to be copied."""


def faithful_copy(model: nn.Module, *, meta: bool = False, blank: bool = False) -> Any:
    """Return a copy of a model with all of its ties, plain lists of tensors included.

    Args:
        model: The model; it is read, and nothing of it is changed.
        meta: Put every tensor on the meta device, as if the class had been built there.
        blank: Fill with zeros what a state dict holds; other buffers are what the class computes.

    Raises:
        TargetError: It cannot be copied, or takes more than `LIMIT`.
    """
    places = Registrations(model, buffers=True)
    tensors = {id(t): t for t in [*places.tensors(), *(one.tensor for one in plain_references(places))]}
    plain = [t for t in tensors.values() if type(t) in PLAIN and t.layout is torch.strided]
    storages: dict[int, torch.UntypedStorage] = {}
    total = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in plain if not t.is_meta}.values())
    if total > LIMIT and not meta:
        raise TargetError(f"the model takes {total:,} bytes; survive copies it, and stops at {LIMIT:,}")
    memo: dict[int, Any] = {}
    try:
        state = model.state_dict().values() if blank else ()
        loaded = {t.untyped_storage()._cdata for t in state if type(t) in PLAIN}
        for tensor in plain:
            held = tensor.untyped_storage()._cdata
            memo[id(tensor)] = _copied(tensor, storages, meta=meta, blank=held in loaded)
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TargetError(f"the {type(model).__name__} cannot be copied: {exception_line(error)}") from error


def _copied(tensor: Tensor, storages: dict[int, torch.UntypedStorage], *, meta: bool, blank: bool) -> Tensor:
    with torch.no_grad():
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            device = torch.device("meta") if meta or tensor.is_meta else storage.device
            make = torch.zeros if blank else torch.empty
            made = make(storage.nbytes(), dtype=torch.uint8, device=device).untyped_storage()
            if not blank and device.type != "meta":
                made.copy_(storage)
            storages[storage._cdata] = made
        held = storages[storage._cdata]
        empty = torch.empty(0, dtype=tensor.dtype, device=held.device)
        new = empty.set_(held, tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
