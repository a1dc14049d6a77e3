"""The tie groups of accelerate before 0.34, in the order in which it comes upon them.

`find_tied_parameters` (0.18 to 0.33) goes down from the root, and lists in each module all that is below it: a further
name is found in the highest module that does not hold the name before it. What is in the groups is told by
`paths.seen_again`; the planner also goes by their order.
"""

from __future__ import annotations

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.peers.views import paths

Groups = tuple[tuple[str, ...], ...]


def found_again(graph: ModuleGraph) -> Groups:
    """The groups of names, each sorted, in the order in which each is first come upon.

    Args:
        graph: The modules; `paths.check` has said that the walk along `named_children` ends.
    """
    begins: dict[str, int] = {}
    latest: dict[int, tuple[int, str]] = {}
    groups: dict[int, list[str]] = {}
    met: list[tuple[int, str, int, str]] = []
    for number, place in enumerate(paths.places(graph, once=True)):
        for end in _stops(place.name):
            begins.setdefault(place.name[:end], number)
        key = id(place.tensor)
        path, name = latest.get(key, (-1, ""))
        if path == -1:
            groups[key] = [place.name]
        elif path != place.path:
            met.append((key, _highest(place.name, name), number, place.name))
        latest[key] = place.path, place.name
    met.sort(key=lambda one: (begins[one[1]], one[1].count("."), one[2]))
    for key, _, _, name in met:
        groups[key].append(name)
    return tuple([tuple(sorted(set(groups[key]))) for key in dict.fromkeys(one[0] for one in met)])


def _stops(name: str) -> list[int]:
    """Where the paths above a name end."""
    return [place for place, letter in enumerate(name) if letter == "."]


def _highest(name: str, before: str) -> str:
    """The highest module that holds a name and not the one before it."""
    last = name
    for end in _stops(name):
        last = name[:end]
        if not before.startswith(name[: end + 1]):
            break
    return last
