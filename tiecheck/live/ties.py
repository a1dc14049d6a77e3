"""The tie groups of a live module and its aliased modules, from the places that register tensors and their memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from tiecheck.live import torch_adapter
from tiecheck.live.member_lookup import ONE_IN_THE_MAP, held_by_hook, offloaded_values
from tiecheck.live.memory import memory_links
from tiecheck.live.module_graph import COUNT_LIMIT, ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.records.live import Alias, Registration, Tie
from tiecheck.records.words import Kind

ENDLESS = "a module is registered below itself, which makes the names endless"

NESTED = 8
"""Aliases that stand below another alias are listed up to this many: a chain of doublings has one a level."""
LETTERS = 1_000_000
"""And while the listed ones have made fewer letters than this: a chain's paths are as long as the chain."""


def ties_of(places: Registrations, cap: int) -> tuple[Tie, ...]:
    """Return every group of names that share a module, a tensor or memory, by the first name; `cap` names each at most.

    A registered cycle alone makes no group: each name of one would stand for itself.
    """
    with torch_adapter.without_torch_functions():
        # By first name alone, which no two groups share: to compare whole records takes longer than to write them.
        return tuple(sorted(_groups(places, cap), key=_first_name))


def _first_name(tie: Tie) -> str:
    return tie.names[0]


def _groups(places: Registrations, cap: int) -> Iterator[Tie]:
    writer = _Writer(places, cap)
    tensors = places.tensors()
    held = _held_by_hooks(places, tensors)
    done: set[int] = set()
    for link in memory_links([held.get(i, tensor) for i, tensor in enumerate(tensors)] if held else tensors):
        firsts = [places.firsts[i] for i in link.members]
        done.update(firsts)
        if link.kind == "storage" and not held.keys().isdisjoint(link.members):
            yield writer.tie(firsts, "parameter", ONE_IN_THE_MAP)
        else:
            yield writer.tie(firsts, link.kind, link.reason)
    for first in places.repeats:
        if first not in done:
            done.add(first)
            yield writer.tie([first], "parameter", None)
    several = {number for number, count in places.graph.aliased().items() if count > 1}
    if several:
        distinct = set(places.firsts)
        for place, owner in enumerate(places.owners):
            if owner in several and place in distinct and place not in done:
                yield writer.tie([place], "module", None)


def _held_by_hooks(places: Registrations, tensors: list[Tensor]) -> dict[int, Tensor]:
    """Return the values in memory that accelerate's hooks hold for tensors on meta, by the tensor's position."""
    found: dict[int, Tensor] = {}
    if "accelerate.hooks" not in sys.modules or not any(map(torch_adapter.is_meta, tensors)):  # nobody hung one in
        return found
    for i, tensor in enumerate(tensors):
        place = places.firsts[i]
        owner, attribute = places.graph.modules[places.owners[place]], places.attributes[place]
        if "_hf_hook" in owner.__dict__ and tensor.is_meta and held_by_hook(owner, attribute):
            values, on_disk = offloaded_values(owner, attribute)
            if values is not None and not on_disk:
                found[i] = values
    return found


class _Writer:
    """Writes groups down as ties; keeps the words and paths that come again."""

    def __init__(self, places: Registrations, cap: int) -> None:
        self._places = places
        self._cap = cap
        self._looks = torch_adapter.TensorDescriber()
        self._aliased = places.graph.aliased()
        self._modules = places.graph.modules
        self._registrations: dict[tuple[type, str, bool], Registration] = {}

    def tie(self, firsts: list[int], kind: Kind, reason: str | None) -> Tie:
        """Return the tie of the tensors of some first places, which hang together."""
        places, graph, cap = self._places, self._places.graph, self._cap
        found: list[tuple[str, int]] = []
        more: list[str] = []
        total: int | None = 0
        for first in firsts:
            for place in places.places_of(first):
                owner, attribute = places.owners[place], places.attributes[place]
                if owner in self._aliased:
                    own = [prefix + attribute for prefix in graph.prefixes(owner, cap)]
                    paths = graph.paths(owner)
                    total = None if total is None or paths is None else min(total + paths, COUNT_LIMIT)
                    found.append((own[0], place))
                    more += own[1:]
                else:
                    total = None if total is None else total + 1
                    found.append((graph.path(owner, attribute), place))
        found.sort()
        names = [name for name, _ in found]
        if more:
            names = sorted(names + more)
        objects = places.objects
        ordered = [objects[place] for _, place in found]
        if len(firsts) > 1:
            ordered = list({id(tensor): tensor for tensor in ordered}.values())
        else:
            del ordered[1:]
        return Tie(
            tuple(names if len(names) <= cap else names[:cap]),
            total,
            kind,
            *self._looks.of(ordered[0]),
            found[0][1] >= places.boundary and all(place >= places.boundary for _, place in found),
            tuple([tensor.requires_grad for tensor in ordered]),
            tuple([self._registration(place) for _, place in found]),
            reason or (ENDLESS if total is None else None),
            kind != "storage" or len({(tensor.shape, tensor.stride()) for tensor in ordered}) == 1,
        )

    def _registration(self, place: int) -> Registration:
        """Return who registers a place; one record for all that look alike."""
        buffer = place >= self._places.boundary
        key = (type(self._modules[self._places.owners[place]]), self._places.attributes[place], buffer)
        known = self._registrations.get(key)
        if known is None:
            known = self._registrations[key] = Registration(key[0].__name__, key[1], buffer)
        return known


def lent_ties(root: nn.Module, places: Registrations, cap: int) -> tuple[Tie, ...]:
    """Return the groups of a root, whose parameters stand at some places, in which a buffer lies over a parameter."""
    held = [buffer for module in places.graph.modules for buffer in module._buffers.values() if buffer is not None]
    if not held or _storages(held).isdisjoint(_storages(places.tensors())):
        return ()
    return tuple(tie for tie in ties_of(Registrations(root, buffers=True), cap) if tie.lent)


def _storages(tensors: list[Tensor]) -> set[int]:
    """Return the addresses of the memory behind some tensors, of those that have any."""
    plain = (tensor for tensor in tensors if type(tensor) in torch_adapter.PLAIN and not tensor.is_meta)
    return {tensor.untyped_storage().data_ptr() for tensor in plain if tensor.layout is torch.strided} - {0}


def aliases_of(graph: ModuleGraph, cap: int) -> tuple[Alias, ...]:
    """Return the modules that are themselves registered several times, not what stands below them, by first path.

    Paths and names are capped. One below another alias is listed only if it has several registrations of its own; of
    those the first `NESTED`. A registered cycle is an alias with endless paths.
    """
    several = graph.several()
    if not several:
        return ()
    full = _with_parameters(graph)
    found: list[Alias] = []
    nested = letters = 0
    aliased = graph.aliased()
    for number in several:
        if number not in full:
            continue
        if any(edge.parent in aliased for edge in graph.edges(number)):
            nested += 1
            if nested > NESTED or letters > LETTERS:
                continue
        alias = _alias(graph, number, full, cap)
        letters += sum(map(len, alias.paths)) + sum(map(len, alias.names))
        found.append(alias)
    return tuple(sorted(found))


def _alias(graph: ModuleGraph, number: int, full: set[int], cap: int) -> Alias:
    prefixes = graph.prefixes(number, cap)
    closing = graph.closing(number)
    for edge in closing:  # a cycle is shown turned once
        prefixes += [f"{prefix}{edge.label}." for prefix in graph.prefixes(edge.parent, cap)]
    prefixes = sorted(prefixes)[:cap]
    parents = {edge.parent for edge in graph.registrations_of(number)}
    below = list(islice(_names_below(graph, number, full), cap))
    names: Iterator[str] = (prefix + name for prefix in prefixes for name in below)
    names = iter(sorted(names)) if closing else names  # else they come sorted: no prefix begins another
    return Alias(
        paths=tuple(prefix.removesuffix(".") for prefix in prefixes),
        paths_total=graph.paths(number),
        class_name=type(graph.modules[number]).__name__,
        siblings=number > 0 and len(parents) == 1 and _by_one_parent(graph, min(parents)),
        names=tuple(islice(names, cap)),
    )


def _by_one_parent(graph: ModuleGraph, number: int) -> bool:
    """Return True if a module, and each above it, stands in one parent alone, be it under several names."""
    while number:
        parents = {edge.parent for edge in graph.edges(number)}
        if len(parents) != 1:
            return False
        number = parents.pop()
    return True


def _with_parameters(graph: ModuleGraph) -> set[int]:
    """Return the modules with a parameter in them or below."""
    full = {
        number
        for number, module in enumerate(graph.modules)
        if any(parameter is not None for parameter in module._parameters.values())
    }
    stack = list(full)
    while stack:
        for edge in graph.registrations_of(stack.pop()):
            if edge.parent not in full:
                full.add(edge.parent)
                stack.append(edge.parent)
    return full


def _names_below(graph: ModuleGraph, top: int, full: set[int]) -> Iterator[str]:
    """Yield the parameter names below a module, in order, written one at a time; no cycle is turned."""
    parts: list[str] = []
    walk = [iter(_labels(graph, top, full))]
    while walk:
        label, child = next(walk[-1], ("", -1))
        if not label:
            walk.pop()
            if parts:
                parts.pop()
        elif child < 0:
            yield "".join((*parts, label))
        else:
            parts.append(label)
            walk.append(iter(_labels(graph, child, full)))


def _labels(graph: ModuleGraph, number: int, full: set[int]) -> list[tuple[str, int]]:
    """List what of a module leads to a parameter: its own parameters (-1), and modules with a final dot."""
    own = [(label, -1) for label, tensor in graph.modules[number]._parameters.items() if tensor is not None]
    below = [(f"{label}.", child) for label, child in graph.children(number, closing=False) if child in full]
    return sorted(own + below)
