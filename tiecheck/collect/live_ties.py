"""The tie groups of a live module, from the places that register its tensors and the memory these stand on."""

from __future__ import annotations

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
    writer = _Writer(places, cap)
    tensors = places.tensors()
    ties: list[Tie] = []
    done: set[int] = set()
    for link in memory_links(tensors):
        members = [id(tensors[i]) for i in link.members]
        done.update(members)
        ties.append(writer.tie(members, link.kind, link.reason))
    for key in places.repeats:
        if key not in done:
            done.add(key)
            ties.append(writer.tie([key], "parameter", None))
    counts = places.graph.aliased()
    several = {number for number, count in counts.items() if count > 1}
    if several:
        for owner, place in places.owned():
            key = id(places.objects[place])
            if owner in several and key in places.last and key not in done:
                ties.append(writer.tie([key], "module", None))
    ties.sort()
    return tuple(ties)


class _Writer:
    """Writes groups down as ties; keeps the words and paths that come again."""

    def __init__(self, places: Registrations, cap: int) -> None:
        self._places = places
        self._cap = cap
        self._looks = torch_adapter.Looks()
        self._registrations: dict[tuple[type, str], Registration] = {}

    def tie(self, keys: list[int], kind: Kind, reason: str | None) -> Tie:
        """The tie of the tensors of some ids that hang together."""
        objects, graph, boundary, cap = self._places.objects, self._places.graph, self._places.boundary, self._cap
        found = []
        for key in keys:
            for place in self._places.places(key):
                owner, attribute = self._places.registered(place)
                found.append(([prefix + attribute for prefix in graph.prefixes(owner, cap)], place, owner, attribute))
        found.sort()
        ordered = [objects[place] for _, place, _, _ in found]
        if len(keys) > 1:
            ordered = list({id(tensor): tensor for tensor in ordered}.values())
        names = [name for place_names, _, _, _ in found for name in place_names]
        if len(names) > len(found):
            names.sort()
        total = self._total([owner for _, _, owner, _ in found])
        return Tie(
            tuple(names[:cap]),
            total,
            kind,
            *self._looks.of(ordered[0]),  # type: ignore[arg-type]  # a key is never that of None
            all([place >= boundary for _, place, _, _ in found]),
            (ordered[0].requires_grad,) if len(keys) == 1 else tuple([t.requires_grad for t in ordered]),  # type: ignore[union-attr]  # see above
            tuple([self._registration(owner, attribute) for _, _, owner, attribute in found]),
            reason or (ENDLESS if total is None else None),
        )

    def _total(self, owners: list[int]) -> int | None:
        """How many names the places of some modules make together."""
        graph = self._places.graph
        if not graph.aliased():
            return len(owners)
        counts = [graph.paths(owner) for owner in owners]
        return None if None in counts else min(sum(filter(None, counts)), COUNT_LIMIT)

    def _registration(self, number: int, attribute: str) -> Registration:
        """Who registers a place."""
        owner = type(self._places.graph.modules[number])
        known = self._registrations.get((owner, attribute))
        if known is None:
            known = self._registrations[owner, attribute] = Registration(owner.__name__, attribute)
        return known
