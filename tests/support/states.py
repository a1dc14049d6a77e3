"""How some names of a module hang together, told without tiecheck: by object, by memory, by what is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WORDS = {
    "one": (),
    "copy": ("TIE301",),
    "separate": ("TIE301",),
    "storage": ("TIE302",),
    "some of several": ("TIE307",),
    "some of several, storage": ("TIE302", "TIE307"),
    "half meta": ("TIE314",),
    "not effective": ("TIE313",),
    "absent": ("TIE301", "TIE307", "TIE309"),
}
"""What is true of a group -> the rules one of which has to say so."""


class Held(NamedTuple):
    """What stands behind one name."""

    name: str
    """The name, as it was while the group was tied."""
    registered: Tensor | None
    """The tensor that a module registers under it, or under what a parametrization or pruning made of it."""
    effective: Tensor | None
    """What the module uses."""


def reach(model: nn.Module, name: str) -> Held:
    """Look a name up, through pruning and parametrizations."""
    path, _, attribute = name.rpartition(".")
    module: Any = model.get_submodule(path)
    registered = module._parameters.get(attribute)
    if registered is None:
        registered = module._buffers.get(attribute)
    if f"{attribute}_orig" in module._parameters:
        registered = module._parameters[f"{attribute}_orig"]
    if "parametrizations" in module._modules and attribute in module.parametrizations:
        inside = module.parametrizations[attribute]
        registered = inside.original1 if hasattr(inside, "original1") else inside.original
    return Held(name, registered, getattr(module, attribute, None))


def state_of(model: nn.Module, names: tuple[str, ...]) -> str:
    """What is true of some names: a word of `WORDS`."""
    held = [reach(model, name) for name in names]
    tensors = [h.registered for h in held if h.registered is not None]
    if len(tensors) < len(held):
        return "absent"
    parts = len({id(tensor) for tensor in tensors})
    if parts == 1:
        used = [h.effective for h in held if h.effective is not None]
        same = len(used) == len(held) and all(u is used[0] or torch.equal(u, used[0]) for u in used)
        return "one" if same else "not effective"
    if len({tensor.is_meta for tensor in tensors}) == 2:
        return "half meta"
    memory = len({_place(tensor) for tensor in tensors}) == 1
    if parts < len(held):
        return "some of several, storage" if memory else "some of several"
    if memory:
        return "storage"
    equal = not tensors[0].is_meta and all(_equal(tensor, tensors[0]) for tensor in tensors)
    return "copy" if equal else "separate"


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where the elements of a dense tensor lie, whichever way round they are read."""
    storage = tensor.untyped_storage()
    where = storage._cdata if tensor.is_meta else storage.data_ptr()
    return where, tensor.storage_offset(), tensor.numel(), tensor.dtype


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
