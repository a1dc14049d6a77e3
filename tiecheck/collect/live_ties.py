"""The tie groups of a live module, from the places that register its tensors and the memory these stand on."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.collect import torch_adapter
from tiecheck.collect.alias_graph import COUNT_LIMIT, Registrations
from tiecheck.collect.live_links import memory_links
from tiecheck.facts import Kind, Registration, Tie

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
        self._registrations: dict[tuple[type, str], Registration] = {}  # one record for all that look alike

    def tie(self, firsts: list[int], kind: Kind, reason: str | None) -> Tie:
        """The tie of the tensors of some first places, which hang together."""
        places, graph = self._places, self._places.graph
        aliased, known = graph.aliased(), self._registrations
        found: list[tuple[str, int, Registration]] = []
        names: list[str] = []
        total: int | None = 0
        for first in firsts:
            for place in places.places(first):
                owner, attribute = places.owners[place], places.attributes[place]
                if owner in aliased:
                    own = [prefix + attribute for prefix in graph.prefixes(owner, self._cap)]
                    paths = graph.paths(owner)
                    total = None if total is None or paths is None else min(total + paths, COUNT_LIMIT)
                else:
                    own = [graph.path(owner, attribute)]
                    total = None if total is None else total + 1
                names += own
                key = (type(graph.modules[owner]), attribute)
                registration = known.get(key)
                if registration is None:
                    registration = known[key] = Registration(key[0].__name__, attribute)
                found.append((own[0], place, registration))
        found.sort()
        names.sort()
        ordered = [places.objects[place] for _, place, _ in found]
        distinct = ordered[:1] if len(firsts) == 1 else list({id(tensor): tensor for tensor in ordered}.values())
        return Tie(
            tuple(names[: self._cap]),
            total,
            kind,
            *self._looks.of(ordered[0]),
            found[0][1] >= places.boundary and all(place >= places.boundary for _, place, _ in found),
            tuple([tensor.requires_grad for tensor in distinct]),
            tuple([registration for _, _, registration in found]),
            reason or (ENDLESS if total is None else None),
        )
