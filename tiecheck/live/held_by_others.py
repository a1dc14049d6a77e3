"""Tensors of a live module that others hold: optimizers, with those that it has no longer, and other live models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.live import torch_adapter
from tiecheck.live.memory import memory_links
from tiecheck.live.registrations import Registrations
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.live.wrappers import UserNames, class_name, route_of
from tiecheck.records.hops import Route
from tiecheck.records.life import GroupPlace, HeldTensor, SharedAcross

HALVES = (torch.float16, torch.bfloat16)
SETTINGS = ("lr", "weight_decay", "momentum", "betas", "use_muon", "algorithm")
"""Settings of a group that are compared."""


def tensors_in_optimizers(
    module: nn.Module, optimizers: tuple[Any, ...], others: tuple[nn.Module, ...]
) -> tuple[HeldTensor, ...]:
    """Return the tensors that optimizers hold (other models' too), and the module's own that train and are in none."""
    places = Registrations(module, buffers=False)
    user = UserNames(places.graph)
    slots: dict[int, list[GroupPlace]] = {}
    tensors: dict[int, Tensor] = {}
    for tensor, slot in _slots(optimizers):
        slots.setdefault(id(tensor), []).append(slot)
        tensors[id(tensor)] = tensor
    foreign = {id(p) for other in others for p in other.parameters()}
    tables = _tables(places)
    masters = [*_masters(places, [tensor for key, tensor in tensors.items() if key not in foreign])]
    for own, master in masters:
        slots.setdefault(id(own), []).extend(slots[id(master)])
    for key in {id(master) for _, master in masters}:
        del slots[key]
    found = []
    for tensor in places.tensors():
        held = tuple(slots.pop(id(tensor), ()))
        if held or tensor.requires_grad:
            names = user.all_of(places.names_of(tensor))
            found.append(HeldTensor(names, tuple(tensor.shape), held, id(tensor) in tables, tensor.requires_grad))
    for key, left in slots.items():
        if key not in foreign:
            found.append(HeldTensor((), tuple(tensors[key].shape), tuple(left), False))
    return tuple(found)


def _masters(places: Registrations, held: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield half-precision parameters, each with a held float32 copy: what mixed precision by hand steps for it.

    One flat tensor may have the values of several, in the order in which the module has them.
    """
    ids = {id(tensor) for tensor in held}
    halves = [t for t in places.tensors() if t.dtype in HALVES and id(t) not in ids and t.requires_grad]
    wide = [tensor for tensor in held if tensor.dtype is torch.float32 and not tensor.is_meta] if halves else []
    for master in wide:
        begin, values = 0, master.detach().reshape(-1)
        for own in halves:
            end = begin + own.numel()
            if end > len(values) or (master.dim() != 1 and own.shape != master.shape):
                continue
            if torch_adapter.equal_bytes(values[begin:end].reshape(own.shape).to(own.dtype), own.detach()):
                yield own, master
                begin = end


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


COMPARED = 1 << 28
"""Bytes of frozen parameters that are compared, at most."""


def shared_across(model: nn.Module, others: tuple[nn.Module, ...]) -> tuple[SharedAcross, ...]:
    """Return what a model shares with each of some others."""
    return tuple(found for number, other in enumerate(others) for found in _with_one(model, other, number))


def _named(module: nn.Module) -> tuple[dict[str, Tensor], Route]:
    """Return every parameter by all of its names, without wrappers, and the way to them."""
    places = Registrations(module, buffers=False)
    user = UserNames(places.graph)
    named = {name: tensor for tensor in places.tensors() for name in user.all_of(places.names_of(tensor))}
    return named, route_of(places.graph, user)


def _with_one(model: nn.Module, other: nn.Module, number: int) -> list[SharedAcross]:
    (mine, _), (theirs, route) = _named(model), _named(other)
    title = class_name(other)
    ids, own = {id(tensor) for tensor in theirs.values()}, {id(tensor) for tensor in mine.values()}
    same = tuple(sorted(name for name, tensor in mine.items() if id(tensor) in ids))
    found = []
    if same:
        whole = len(same) == len(mine) == len(theirs) and type(model) is type(other)
        trains = any(mine[name].requires_grad for name in same)
        found.append(SharedAcross(number, title, "whole" if whole else "object", same, trains))
    names = [name for name in mine if name not in same]
    apart = [name for name, tensor in theirs.items() if id(tensor) not in own]
    tensors = [*(mine[name] for name in names), *(theirs[name] for name in apart)]
    linked: set[str] = set()
    there: set[str] = set()
    trains = False
    for link in memory_links(tensors):
        ours = {names[i] for i in link.members if i < len(names)}
        if ours and len(ours) < len(link.members):
            linked |= ours
            there |= {apart[i - len(names)] for i in link.members if i >= len(names)}
            trains = trains or any(tensors[i].requires_grad for i in link.members)

    def paths(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(route.to(name, f"beside[{number}]") for name in names)

    if linked:
        found.append(SharedAcross(number, title, "memory", tuple(sorted(linked)), trains, paths(sorted(there))))
    copies = _equal_frozen({name: mine[name] for name in names if name not in linked}, theirs)
    if copies:
        found.append(SharedAcross(number, title, "copies", copies, False, paths(copies)))
    return found


def _equal_frozen(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names under which both hold an equal tensor that neither trains: all that the other has, or none."""
    left, found = COMPARED, set()
    for name, tensor in mine.items():
        other = theirs.get(name)
        plain = type(tensor) in torch_adapter.PLAIN and not tensor.is_meta and tensor.numel() > 1
        if other is None or not plain or tensor.requires_grad or other.requires_grad or tensor.nbytes > left:
            continue
        left -= tensor.nbytes
        if type(other) in torch_adapter.PLAIN and torch_adapter.equal_bytes(tensor, other):
            found.add(name)
    apart = {id(tensor) for name, tensor in theirs.items() if name not in found}
    return tuple(sorted(name for name in found if id(theirs[name]) not in apart))
