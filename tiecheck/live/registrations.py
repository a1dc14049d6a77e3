"""Every place where a module, or a module inside of it, registers a parameter or buffer, and the names these make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import compress
from operator import not_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiecheck.errors import TargetError, class_word, foreign_errors
from tiecheck.live.module_graph import CAP, ModuleGraph, repeated_numbers
from tiecheck.live.wrappers import child_through_wrappers, without_wrappers
from tiecheck.wording import with_article


class Registrations:
    """Every place where a module of a graph registers a parameter (and, if asked, a buffer).

    Place `r` is `objects[r]`, under `attributes[r]` of module `owners[r]`.
    """

    def __init__(self, root: nn.Module, *, buffers: bool) -> None:
        """List the registrations of parameters, and of buffers if asked, of each module below an unchanged root.

        What is no module is a `TypeError`.
        """
        self._list(ModuleGraph(root, exact=False), buffers=buffers)
        if not self.graph.exact:
            # A module that came twice without notice, and has a tensor in it or below, has shown that tensor twice.
            owners = {self.owners[place] for places in self.repeats.values() for place in places}
            if len({id(self.graph.modules[number]) for number in owners}) < len(owners):
                self._list(ModuleGraph(root), buffers=buffers)

    def _list(self, graph: ModuleGraph, *, buffers: bool) -> None:
        self.graph = graph
        self.objects, self.owners, self.attributes = graph.parameters
        self.boundary = len(self.objects)
        """The first place of a buffer."""
        if buffers:
            self._list_buffers()
        everything = range(len(self.objects))
        self.firsts = list(everything)
        """The first place of each distinct tensor."""
        self.repeats: dict[int, list[int]] = {}
        """First place of a tensor that is registered several times -> every place of it."""
        ids = list(map(id, self.objects))
        several = repeated_numbers(ids)
        if several:
            by_id: dict[int, list[int]] = {}
            among = list(map(several.__contains__, ids))
            for place in compress(everything, among):
                by_id.setdefault(ids[place], []).append(place)
            self.repeats = {places[0]: places for places in by_id.values()}
            self.firsts = sorted([*compress(everything, map(not_, among)), *self.repeats])

    def _list_buffers(self) -> None:
        self.objects, self.owners, self.attributes = self.objects[:], self.owners[:], self.attributes[:]
        for number, module in enumerate(self.graph.modules):
            if held := module._buffers:
                for name, buffer in held.items():
                    if buffer is not None:
                        self.objects.append(buffer)
                        self.owners.append(number)
                        self.attributes.append(name)

    def tensors(self) -> list[Tensor]:
        """Return every distinct tensor, in the order of `firsts`."""
        return [self.objects[place] for place in self.firsts]

    @cached_property
    def _first_by_id(self) -> dict[int, int]:
        return {id(self.objects[first]): first for first in self.firsts}

    def names_of(self, tensor: Any) -> tuple[str, ...]:
        """Return the names of a tensor, sorted, the first `CAP` of them; none where it is registered nowhere."""
        first = self._first_by_id.get(id(tensor))
        if first is None:
            return ()
        return tuple(sorted(name for place in self.places_of(first) for name in self.names_at(place))[:CAP])

    def places_of(self, first: int) -> list[int]:
        """Return every place that registers the tensor of a first place."""
        return self.repeats.get(first) or [first]

    def names_at(self, place: int) -> list[str]:
        """Return the names that one place makes, sorted, the first `CAP` of them."""
        return [prefix + self.attributes[place] for prefix in self.graph.prefixes(self.owners[place], CAP)]


@contextmanager
def looking_at(module: object, *, own: str | None = None) -> Iterator[None]:
    """Look at a module: what its own code raises meanwhile, `sys.exit` included, becomes a `TargetError` naming it.

    Exceptions of a module of ours (`own`) are meant for the caller. What is no module is a `TypeError`.
    """
    name = class_word(type(module))
    if not isinstance(module, nn.Module):
        raise TypeError(f"a torch.nn.Module is wanted, not {with_article(name)}")
    if "_parameters" not in module.__dict__ and not isinstance(module, torch.jit.ScriptModule):
        raise TargetError(f"the {name} was never initialised: its __init__ does not call super().__init__()")
    with foreign_errors(f"looking at the {name}", own=own):
        yield


CONTAINERS: frozenset[type] = frozenset({list, tuple, dict})
"""Types of container that are looked into."""

HELD = 64
"""Elements of one container that are looked at."""


class PlainReference(NamedTuple):
    """One element of a plain container that is a registered tensor of another module."""

    name: str
    """Its name as Python reaches it: `head.tied[0]`, `head.tied['weight']`."""
    path: str
    """Path of the module whose attribute holds the container."""
    attribute: str
    key: Any
    """Index or key of the element."""
    tensor: Tensor

    def holder(self, root: nn.Module) -> nn.Module | None:
        """Return the module at its path, wrappers passed through; None where there is none."""
        module: nn.Module | None = without_wrappers(root)
        for label in self.path.split(".") if self.path else ():
            module = child_through_wrappers(module, label) if module is not None else None
        return module

    def now(self, root: nn.Module) -> Tensor | None:
        """Return the tensor that stands there now, in the module or one made of it; None where there is none."""
        try:
            held = vars(self.holder(root))[self.attribute][self.key]
        except (KeyError, IndexError, TypeError):
            return None
        return held if isinstance(held, Tensor) else None


FIRST, *_, LAST = vars(nn.Module())
"""Attributes that torch sets first and last in a module, of some seventeen: to touch them all takes most of a look."""


def _containers(modules: list[nn.Module]) -> list[tuple[int, str, Any]]:
    """Return the plain containers that are set in modules after torch's own attributes, by the module's number."""
    held: list[tuple[int, str, Any]] = []
    for number, module in enumerate(modules):
        attributes = module.__dict__
        last = attributes.get(LAST, attributes) if next(iter(attributes), "") == FIRST else attributes
        for value in reversed(attributes.values()):
            if value is last:
                break
            if type(value) in CONTAINERS and value:
                own = ((name, one) for name, one in attributes.items() if type(one) in CONTAINERS and name[0] != "_")
                held += [(number, name, one) for name, one in own if 0 < len(one) <= HELD]
                break
    return held


def plain_references(places: Registrations) -> list[PlainReference]:
    """Return the elements of plain lists, tuples and dicts that are tensors which another module registers."""
    elements = [
        (number, attribute, key, tensor)
        for number, attribute, value in _containers(places.graph.modules)
        for key, tensor in (value.items() if isinstance(value, dict) else enumerate(value))
        if isinstance(tensor, Tensor)
    ]
    if not elements:
        return []
    owners: dict[int, set[int]] = {}
    for tensor, owner in zip(places.objects, places.owners, strict=True):
        owners.setdefault(id(tensor), set()).add(owner)
    found = []
    for number, attribute, key, tensor in elements:
        if number not in owners.get(id(tensor), {number}):
            path = places.graph.path(number, "").removesuffix(".")
            found.append(
                PlainReference(f"{places.graph.path(number, attribute)}[{key!r}]", path, attribute, key, tensor)
            )
    return found
