"""Follows the walks of other tools through a module: every path to every module, in torch's order.

Two trees of paths: torch's own (`named_modules(remove_duplicate=False)`, torch 2.13), and the one of `named_children`,
which leaves out what one parent registers a second time. Both are counted before they are walked, so that a walk
that would never end is told and not begun.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from tiecheck.live.module_graph import COUNT_LIMIT, ModuleGraph, repeated_numbers

STEPS = 1_000_000
"""Paths and names that a walk is followed along at most."""

CENTURIES = 1 << 50
"""A walk over so many names ends in nobody's lifetime."""

RECURSION = "maximum recursion depth exceeded"


class Extent(NamedTuple):
    """Size of what a walk along a tree of paths would meet."""

    paths: int
    """Paths to modules, the root's among them; at most `COUNT_LIMIT`. Those that turn round a cycle are left out."""
    names: int
    """Names of parameters on these paths; at most `COUNT_LIMIT`."""
    depth: int
    """Modules on the longest path."""
    endless: bool
    """True if a registered cycle makes the walk turn round for ever."""


class Endless(Exception):  # noqa: N818  # what is told is the tool's state, not an error of ours
    """A tool's walk would meet so many names that it is not begun."""


class Place(NamedTuple):
    """One name of a tensor."""

    tensor: Tensor
    path: int
    """The number of the path to the module that registers it."""
    name: str


def walk_extent(graph: ModuleGraph, *, once: bool) -> Extent:
    """Count what a walk would meet, in time that grows with the modules and not with their paths."""
    if not graph.several():
        depth = [1] * len(graph.modules)
        for number in range(1, len(depth)):  # parents first
            depth[number] = depth[graph.registrations_of(number)[0].parent] + 1
        return Extent(len(depth), len(graph.parameters[0]), max(depth), endless=False)
    sizes: dict[int, Extent] = {}
    for number in reversed(graph.parents_first(range(len(graph.modules)))[0]):
        held = [sizes[child] for _, child in graph.children(number, closing=False, once=once)]
        own = sum([parameter is not None for parameter in graph.modules[number]._parameters.values()])
        sizes[number] = Extent(
            min(COUNT_LIMIT, 1 + sum([size.paths for size in held])),
            min(COUNT_LIMIT, own + sum([size.names for size in held])),
            1 + max([size.depth for size in held], default=0),
            endless=False,
        )
    return sizes[0]._replace(endless=any(graph.paths(number) is None for number in graph.aliased()))


def refuse_endless_walk(size: Extent) -> None:
    """Raise what a recursive walk raises (`RecursionError`, in a cycle too), or `Endless` beyond `STEPS` paths."""
    if size.endless or size.depth >= sys.getrecursionlimit():
        raise RecursionError(RECURSION)
    if max(size.paths, size.names) > STEPS:
        what, count = ("list", f"{size.names} names") if size.names > STEPS else ("walk", f"{size.paths} module paths")
        least = "at least " if max(size.paths, size.names) >= COUNT_LIMIT else ""
        end = "it never ends" if max(size.paths, size.names) > CENTURIES else f"more than the {STEPS} followed here"
        raise Endless(f"would {what} {least}{count}: {end}")


def walk_paths(graph: ModuleGraph, *, once: bool) -> Iterator[tuple[str, int]]:
    """Yield every path to every module, with its final dot, and the module's number; parents first.

    `refuse_endless_walk` has said that the walk ends. `once` leaves out a parent's second registration of one module.
    """
    yield "", 0
    stack = [(graph.children(0, once=once), "")]
    while stack:
        rest, prefix = stack[-1]
        for label, child in rest:
            below = f"{prefix}{label}."
            yield below, child
            stack.append((graph.children(child, once=once), below))
            break
        else:
            stack.pop()


def tensor_places(graph: ModuleGraph, *, once: bool) -> Iterator[Place]:
    """Yield every place on every path where a tensor stands that has several places, in the order of the walk.

    `refuse_endless_walk` has said that the walk ends. `once` leaves out a parent's second registration of one module.
    """
    if not graph.several():  # one path a module: the graph has all of it, in this order
        tensors, owners, attributes = graph.parameters
        several = repeated_numbers(map(id, tensors))
        for tensor, number, attribute in zip(tensors, owners, attributes, strict=True):
            if id(tensor) in several:
                yield Place(tensor, number, graph.path(number, attribute))
        return
    found: list[Place] = []
    for path, (prefix, number) in enumerate(walk_paths(graph, once=once)):
        module = graph.modules[number]
        held = module._parameters.items()
        found += [Place(tensor, path, prefix + name) for name, tensor in held if tensor is not None]
    several = repeated_numbers([id(place.tensor) for place in found])
    yield from (place for place in found if id(place.tensor) in several)


def names_by_key(keyed: Iterable[tuple[Hashable, str]]) -> list[list[str]]:
    """Return the names of each key that has several, in the order of their first names."""
    held: dict[Hashable, list[str]] = {}
    for key, name in keyed:
        held.setdefault(key, []).append(name)
    return [names for names in held.values() if len(names) > 1]


def names_by_tensor(graph: ModuleGraph) -> list[list[str]]:
    """Return the names of each tensor that has several, in the order of the walk."""
    return names_by_key((id(place.tensor), place.name) for place in tensor_places(graph, once=False))


def seen_again(graph: ModuleGraph) -> list[list[str]]:
    """Return what accelerate before 0.34 finds: the first name of a parameter, then the further names it comes upon.

    It lists `named_parameters()`, without duplicates, of the root and of each module below it on every path of
    `named_children()`. A further name is come upon where it is the first one inside some module below the root: where
    the name before it, in the order of the walk, does not stand in the same module on the same path.
    """
    latest: dict[int, int] = {}
    found: dict[int, list[str]] = {}
    for place in tensor_places(graph, once=True):
        key = id(place.tensor)
        if latest.get(key) != place.path:
            found.setdefault(key, []).append(place.name)
        latest[key] = place.path
    return [names for names in found.values() if len(names) > 1]
