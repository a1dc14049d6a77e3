"""The tie groups of a live module, from the places that register its tensors and the memory these stand on."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.live import torch_adapter
from tiecheck.live.memory_links import memory_links
from tiecheck.live.module_graph import COUNT_LIMIT, Registrations
from tiecheck.records.live import Registration, Tie
from tiecheck.records.words import Kind

ENDLESS = "a module is registered below itself, which makes the names endless"


def ties_of(places: Registrations, cap: int) -> tuple[Tie, ...]:
    """Every group of names that share a module, a tensor or memory, by the first name.

    Args:
        places: The registrations of a module.
        cap: Names a group lists at most.

    Returns:
        The groups. A registered cycle alone makes no group: each name of one would stand for itself.
    """
    with torch_adapter.quiet():
        # By first name alone, which no two groups share: to compare whole records takes longer than to write them.
        return tuple(sorted(_groups(places, cap), key=_first_name))


def _first_name(tie: Tie) -> str:
    return tie.names[0]


def _groups(places: Registrations, cap: int) -> Iterator[Tie]:
    writer = _Writer(places, cap)
    tensors = places.tensors()
    done: set[int] = set()
    for link in memory_links(tensors):
        firsts = [places.firsts[i] for i in link.members]
        done.update(firsts)
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


class _Writer:
    """Writes groups down as ties; keeps the words and paths that come again."""

    def __init__(self, places: Registrations, cap: int) -> None:
        self._places = places
        self._cap = cap
        self._looks = torch_adapter.Looks()
        self._aliased = places.graph.aliased()
        self._modules = places.graph.modules
        self._registrations: dict[tuple[type, str], Registration] = {}

    def tie(self, firsts: list[int], kind: Kind, reason: str | None) -> Tie:
        """The tie of the tensors of some first places, which hang together."""
        places, graph, cap = self._places, self._places.graph, self._cap
        found: list[tuple[str, int]] = []
        more: list[str] = []
        total: int | None = 0
        for first in firsts:
            for place in places.repeats.get(first) or (first,):
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
        )

    def _registration(self, place: int) -> Registration:
        """Who registers a place; one record for all that look alike."""
        key = (type(self._modules[self._places.owners[place]]), self._places.attributes[place])
        known = self._registrations.get(key)
        if known is None:
            known = self._registrations[key] = Registration(key[0].__name__, key[1])
        return known
