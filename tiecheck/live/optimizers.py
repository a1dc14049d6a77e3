"""Tensors that optimizers hold of a live module: in which groups, and which the module has no longer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.live.wrappers import UserNames
from tiecheck.records.life import GroupPlace, HeldTensor

SETTINGS = ("lr", "weight_decay", "momentum", "betas", "use_muon", "algorithm")
"""Settings of a group that are compared."""


def tensors_in_optimizers(
    module: nn.Module, optimizers: tuple[Any, ...], others: tuple[nn.Module, ...]
) -> tuple[HeldTensor, ...]:
    """Return the tensors that optimizers hold, and the module's own that train and are in none.

    Args:
        module: The model.
        optimizers: Whatever has `param_groups` as torch has them.
        others: Models whose parameters may be held as well.
    """
    places = Registrations(module, buffers=False)
    user = UserNames(places.graph)
    slots: dict[int, list[GroupPlace]] = {}
    tensors: dict[int, Tensor] = {}
    for tensor, slot in _slots(optimizers):
        slots.setdefault(id(tensor), []).append(slot)
        tensors[id(tensor)] = tensor
    foreign = {id(p) for other in others for p in other.parameters()}
    tables = _tables(places)
    found = []
    for tensor in places.tensors():
        held = tuple(slots.pop(id(tensor), ()))
        if held or tensor.requires_grad:
            names = user.all_of(places.names_of(tensor))
            found.append(HeldTensor(names, tuple(tensor.shape), held, id(tensor) in tables))
    for key, left in slots.items():
        if key not in foreign:
            found.append(HeldTensor((), tuple(tensors[key].shape), tuple(left), False))
    return tuple(found)


def _slots(optimizers: tuple[Any, ...]) -> Iterator[tuple[Tensor, GroupPlace]]:
    for number, optimizer in enumerate(optimizers):
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        title = type(inner).__name__
        for place, group in enumerate(optimizer.param_groups):
            settings = tuple((key, str(group[key])) for key in SETTINGS if key in group)
            matrix = bool(group.get("use_muon", "muon" in title.lower() or group.get("algorithm") == "muon"))
            slot = GroupPlace(number, len(optimizers), title, place, settings, matrix)
            for tensor in group["params"]:
                yield tensor, slot


def _tables(places: Registrations) -> set[int]:
    """Return the identities of the weights of embeddings, and of output embeddings of models that name theirs."""
    found = set()
    modules = places.graph.modules
    for tensor, owner, attribute in zip(places.objects, places.owners, places.attributes, strict=True):
        if attribute == "weight" and isinstance(modules[owner], nn.Embedding):
            found.add(id(tensor))
    for module in modules:
        if hasattr(module, "get_output_embeddings"):
            weight = weight_of(module, "get_output_embeddings")
            found |= {id(weight)} if weight is not None else set()
    return found
