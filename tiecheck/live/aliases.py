"""Modules with parameters that are registered under several paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tiecheck.live.module_graph import ModuleGraph
from tiecheck.records.live import Alias

NESTED = 8
"""Aliases that stand below another alias are listed up to this many: a chain of doublings has one a level."""
LETTERS = 1_000_000
"""And while the listed ones have made fewer letters than this: a chain's paths are as long as the chain."""


def aliases_of(graph: ModuleGraph, cap: int) -> tuple[Alias, ...]:
    """The modules that are themselves registered several times, not what stands below them.

    Args:
        graph: The modules.
        cap: Paths and names listed at most, each.

    Returns:
        The aliases by first path. One below another alias is listed only if it has several registrations of its
        own; of those the first `NESTED`. A registered cycle is an alias with endless paths.
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
    """Whether a module, and each above it, stands in one parent alone, be it under several names."""
    while number:
        parents = {edge.parent for edge in graph.edges(number)}
        if len(parents) != 1:
            return False
        number = parents.pop()
    return True


def _with_parameters(graph: ModuleGraph) -> set[int]:
    """The modules with a parameter in them or below."""
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
    """The parameter names below a module, in order, written one at a time; no cycle is turned."""
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
    """What a module registers that leads to a parameter: its own parameters (-1), and modules with a final dot."""
    own = [(label, -1) for label, tensor in graph.modules[number]._parameters.items() if tensor is not None]
    below = [(f"{label}.", child) for label, child in graph.children(number, closing=False) if child in full]
    return sorted(own + below)
