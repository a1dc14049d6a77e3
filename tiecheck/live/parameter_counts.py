"""Counts the parameters of a live module, by each way of counting: see `Counts`.

Linear in modules and registrations: names are counted by the paths that lead to a module, and never listed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tiecheck.live.group_kind import HIDDEN, find_declared_ties
from tiecheck.live.live_facts import NO_CONTRACT, Contract
from tiecheck.live.member_lookup import held_by_hook, look_up, offloaded_values
from tiecheck.live.memory import TensorSizes
from tiecheck.live.module_graph import COUNT_LIMIT
from tiecheck.live.registrations import CAP, Registrations, paused_collector
from tiecheck.live.ties import ENDLESS
from tiecheck.live.transformers.declarations import DeclaredGroup, read_declarations
from tiecheck.records.counts import Counts, Tally
from tiecheck.records.live import DeclaredTie
from tiecheck.records.words import TIED
from tiecheck.wording import counted

UNTOLD = Tally(None, None, None)


def count_live(module: nn.Module, contract: Contract = NO_CONTRACT) -> Counts:
    """Count the parameters of any module, reading no element; what cannot be told is null, see `reasons`.

    What is no module is a `TypeError`.
    """
    with paused_collector():
        places = Registrations(module, buffers=True)
        said = read_declarations(places.graph, CAP)
        promised = [DeclaredGroup(group, group[-1], (contract.origin,)) for group in contract.groups]
        claims = find_declared_ties(module, [*said.groups, *promised])
        gone = said.reasons[0] if said.reasons else _redirected(module, claims)
        return _Counter(places).counts(gone)


def _redirected(module: nn.Module, claims: Sequence[DeclaredTie]) -> set[tuple[int, str]] | str:
    """Return the places (owner's id, attribute) of another tensor if declared ties held; or why it is not told."""
    gone: set[tuple[int, str]] = set()
    for claim in claims:
        if claim.kind in TIED:
            continue
        if claim.kind == "unknown":
            return claim.reason or f"how {claim.source} is tied cannot be told"
        source = look_up(module, claim.source)
        for name in claim.names:
            member = look_up(module, name)
            if member.computed:
                return member.why or f"`{name}` is computed"
            if source.tensor is None or member.tensor is None or member.tensor is source.tensor:
                continue
            if (member.owner, member.attribute) == (source.owner, source.attribute):
                continue  # from disk each look gives another tensor
            if member.owner is None or member.owner._parameters.get(member.attribute) is None:
                return f"`{name}` passes on a parameter that is registered elsewhere"
            gone.add((id(member.owner), member.attribute))
    return gone


class _Counter:
    """Adds up the tensors of some registrations: first come the parameters, then the buffers."""

    def __init__(self, places: Registrations) -> None:
        self._places = places
        self._tensors = places.tensors()
        self._split = sum(first < places.boundary for first in places.firsts)
        self._sizes = TensorSizes(self._tensors)
        self._hidden = 0
        values = self._values()
        self._memory = self._sizes if values is None else TensorSizes(values)
        """The tensors that hold the values: other ones where accelerate has offloaded some."""
        self._trains = [tensor.requires_grad for tensor in self._tensors[: self._split]]

    def _values(self) -> list[Tensor] | None:
        """Return the tensors, offloaded ones as accelerate's hooks hold them; None without hooks."""
        places, modules = self._places, self._places.graph.modules
        if not any("_hf_hook" in module.__dict__ for module in modules):
            return None
        values = list(self._tensors)
        for i, first in enumerate(places.firsts[: self._split]):
            owner, attribute = modules[places.owners[first]], places.attributes[first]
            if held_by_hook(owner, attribute):
                value, _ = offloaded_values(owner, attribute)
                self._hidden += value is None
                values[i] = values[i] if value is None else value
        return values

    def counts(self, gone: set[tuple[int, str]] | str) -> Counts:
        """Return all counts; `expected` by the places that tying would redirect, or unknown for a reason."""
        unique = self._once(range(self._split))
        reasons: list[str] = []
        if isinstance(gone, str):
            expected = UNTOLD
            reasons.append(f"what is expected cannot be told: {gone}")
        else:
            expected = self._once(self._kept(gone)) if gone else unique
        objects = self._weighted([1] * self._split)
        by_name, endless = self._by_name(objects)
        buffers = self._buffer_memory()
        reasons += [ENDLESS] if endless else []
        reasons += [f"{counted(self._hidden, 'tensor')}: {HIDDEN}"] if self._hidden else []
        limits = self._sizes.limits | self._memory.limits
        reasons += [f"{counted(count, 'tensor')}: {limit}" for limit, count in limits.items()]
        reasons += [*self._on_meta(), *self._packed()]
        return Counts("live", unique, objects, by_name, expected, buffers, tuple(reasons))

    def _once(self, among: Sequence[int] | set[int]) -> Tally:
        """Return the memory of some tensors, each byte once."""
        if self._hidden:
            return UNTOLD
        held = self._memory.once(among)
        trained = [i for i in among if self._trains[i]]
        if len(trained) == len(among):
            return Tally(held.elements, held.nbytes, held.elements)
        return Tally(held.elements, held.nbytes, self._memory.once(set(trained)).elements)

    def _weighted(self, times: Sequence[int]) -> Tally:
        """Count each tensor some times over."""
        elements, nbytes = (values[: self._split] for values in (self._sizes.elements, self._sizes.nbytes))
        trains = [n if yes else 0 for n, yes in zip(times, self._trains, strict=True)]
        return Tally(_product(elements, times), _product(nbytes, times), _product(elements, trains))

    def _by_name(self, objects: Tally) -> tuple[Tally, bool]:
        """Count each name, by the number of paths to its module; and whether a cycle makes them endless."""
        places, graph = self._places, self._places.graph
        aliased = graph.aliased()
        if not aliased and not places.repeats:
            return objects, False
        times = [1] * self._split
        index = {first: i for i, first in enumerate(places.firsts[: self._split])}
        first_of = {place: first for first, held in places.repeats.items() for place in held}
        for place in range(places.boundary):
            first = first_of.get(place, place)
            owner = places.owners[place]
            if owner not in aliased and first == place:
                continue
            paths = graph.paths(owner)
            if paths is None:
                return UNTOLD, True
            times[index[first]] += paths - (first == place)
        tally = self._weighted(times)
        return Tally(*(None if value is None else min(value, COUNT_LIMIT) for value in tally)), False

    def _kept(self, gone: set[tuple[int, str]]) -> set[int]:
        """Return the tensors that some place would still hold if every declared tie held."""
        places, modules = self._places, self._places.graph.modules
        held = {
            id(places.objects[place])
            for place in range(places.boundary)
            if (id(modules[places.owners[place]]), places.attributes[place]) not in gone
        }
        return {i for i, tensor in enumerate(self._tensors[: self._split]) if id(tensor) in held}

    def _buffer_memory(self) -> Tally:
        """Return what the buffers add to the memory of the parameters."""
        buffers = range(self._split, len(self._tensors))
        near = {i for i in self._memory.partners(buffers) if i < self._split} if buffers else set()
        whole, shared = self._memory.once(near.union(buffers)), self._memory.once(near)
        return Tally(_less(whole.elements, shared.elements), _less(whole.nbytes, shared.nbytes), 0)

    def _on_meta(self) -> list[str]:
        """Return a note where parameters have no memory: built on meta, or offloaded."""
        count = sum(tensor.is_meta for tensor in self._memory.tensors[: self._split])
        return [f"{counted(count, 'tensor')}: on meta, their bytes are what they would take"] if count else []

    def _packed(self) -> list[str]:
        """Return a note where parameters are integers of which nobody says how many weights one of them packs."""
        tensors = self._tensors[: self._split]
        numbers = {tensor.dtype for tensor in tensors}
        integers = {word for word in numbers if not (word.is_floating_point or word.is_complex)}
        if not integers:
            return []
        held = zip(tensors, self._sizes.elements[: self._split], strict=True)
        count = sum(tensor.dtype in integers and elements == tensor.numel() for tensor, elements in held)
        limit = "of integers, counted as stored, though one may pack several weights"
        return [f"{counted(count, 'tensor')}: {limit}"] if count else []


def _product(values: Sequence[int | None], times: Sequence[int]) -> int | None:
    """Return the sum of some values, each some times over; None where one that counts is unknown."""
    found = 0
    for value, n in zip(values, times, strict=True):
        if value is None:
            if n:
                return None
        else:
            found += value * n
    return found


def _less(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other
