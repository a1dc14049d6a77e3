"""How the walks of other tools go through a module: every path to every module, in torch's order.

Two trees of paths: torch's own (`named_modules(remove_duplicate=False)`, torch 2.13), and the one of `named_children`,
which leaves out what one parent registers a second time. Both are counted before they are walked, so that a walk
that would never end is told and not begun.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from tiecheck.collect.alias_graph import COUNT_LIMIT, ModuleGraph

STEPS = 1_000_000
"""Paths and names that a walk is followed along at most."""

CENTURIES = 1 << 50
"""A walk over so many names ends in nobody's lifetime."""

RECURSION = "maximum recursion depth exceeded"


class Extent(NamedTuple):
    """What a walk along a tree of paths would meet."""

    paths: int
    """Paths to modules, the root's among them; at most `COUNT_LIMIT`. Those that turn round a cycle are left out."""
    names: int
    """Names of parameters on these paths; at most `COUNT_LIMIT`."""
    depth: int
    """Modules on the longest path."""
    endless: bool
    """Whether a registered cycle makes the walk turn round for ever."""


class Endless(Exception):  # noqa: N818  # what is told is the tool's state, not an error of ours
    """A tool's walk would meet so many names that it is not begun."""


class Path(NamedTuple):
    """One path to a module."""

    prefix: str
    """The dotted path with its final dot; empty for the root."""
    module: nn.Module
    """The module there."""
    number: int
    """Position among all paths, in the order of the walk."""


def children(module: nn.Module, *, once: bool) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a module registers; each once, under its first attribute, where `once` asks for that."""
    seen: set[int] = set()
    for label, child in module._modules.items():
        if child is not None and not (once and id(child) in seen):
            seen.add(id(child))
            yield label, child


def extent(graph: ModuleGraph, *, once: bool) -> Extent:
    """What a walk would meet, counted in time that grows with the modules and not with their paths."""
    endless = any(graph.paths(number) is None for number in graph.aliased())
    paths: dict[int, int] = {}
    names: dict[int, int] = {}
    depth: dict[int, int] = {}
    for module, below in _upward(graph.modules[0], once=once):
        held = [child for child in below if child in paths]  # one that closes a cycle is not counted yet
        paths[id(module)] = min(COUNT_LIMIT, 1 + sum([paths[child] for child in held]))
        own = sum([parameter is not None for parameter in module._parameters.values()])
        names[id(module)] = min(COUNT_LIMIT, own + sum([names[child] for child in held]))
        depth[id(module)] = 1 + max([depth[child] for child in held], default=0)
    root = id(graph.modules[0])
    return Extent(paths[root], names[root], depth[root], endless)


def _upward(root: nn.Module, *, once: bool) -> Iterator[tuple[nn.Module, list[int]]]:
    """Each module once, after all that it registers; with the ids of these."""
    seen = {id(root)}
    first = [child for _, child in children(root, once=once)]
    stack = [(root, first, iter(first))]
    while stack:
        module, held, rest = stack[-1]
        for child in rest:
            if id(child) not in seen:
                seen.add(id(child))
                below = [grandchild for _, grandchild in children(child, once=once)]
                stack.append((child, below, iter(below)))
                break
        else:
            stack.pop()
            yield module, list(map(id, held))


def check(size: Extent) -> None:
    """Raise what a recursive walk raises, or would never come to.

    Raises:
        RecursionError: A cycle, or modules within modules deeper than Python recurses.
        Endless: More paths than `STEPS`.
    """
    if size.endless or size.depth >= sys.getrecursionlimit():
        raise RecursionError(RECURSION)
    if max(size.paths, size.names) > STEPS:
        what, count = ("list", f"{size.names} names") if size.names > STEPS else ("walk", f"{size.paths} module paths")
        least = "at least " if max(size.paths, size.names) >= COUNT_LIMIT else ""
        end = "it never ends" if max(size.paths, size.names) > CENTURIES else f"more than the {STEPS} followed here"
        raise Endless(f"would {what} {least}{count}: {end}")


def walk(root: nn.Module, *, once: bool) -> Iterator[Path]:
    """Every path to every module, each module before what it registers, in the order of registration.

    Args:
        root: The module; `check` has said that the walk ends.
        once: Whether a parent's second registration of one module is left out.
    """
    yield Path("", root, 0)
    number = 0
    stack = [(children(root, once=once), "")]
    while stack:
        rest, prefix = stack[-1]
        for label, child in rest:
            number += 1
            below = f"{prefix}{label}."
            yield Path(below, child, number)
            stack.append((children(child, once=once), below))
            break
        else:
            stack.pop()


def named(root: nn.Module, *, buffers: bool = False) -> list[tuple[Tensor, list[str]]]:
    """Each parameter (and buffer, if asked) with all its names, in the order of the walk."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for path in walk(root, once=False):
        registries = [path.module._parameters] + ([path.module._buffers] if buffers else [])
        for registry in registries:
            for attribute, tensor in registry.items():
                if tensor is not None:
                    # The tensor is kept beside its id: a scripted module makes a new object for each look.
                    entry = found.setdefault(id(tensor), (tensor, []))
                    entry[1].append(path.prefix + attribute)
    return list(found.values())


def seen_again(root: nn.Module) -> list[tuple[str, list[str]]]:
    """What accelerate before 0.34 finds: the first name of a parameter, and the further names it comes upon.

    It lists `named_parameters()`, without duplicates, of the root and of each module below it on every path of
    `named_children()`. A further name is come upon where it is the first one inside some module below the root:
    where the name before it, in the order of the walk, does not stand in the same module on the same path.

    Returns:
        First names with the further ones, in the order of the walk; only where there are any.
    """
    latest: dict[int, tuple[Tensor, int]] = {}
    first: dict[int, str] = {}
    again: dict[int, list[str]] = {}
    for path in walk(root, once=True):
        for attribute, parameter in path.module._parameters.items():
            if parameter is None:
                continue
            key = id(parameter)
            if key not in latest:
                first[key] = path.prefix + attribute
            elif latest[key][1] != path.number:
                again.setdefault(key, []).append(path.prefix + attribute)
            latest[key] = parameter, path.number
    return [(first[key], names) for key, names in again.items()]
