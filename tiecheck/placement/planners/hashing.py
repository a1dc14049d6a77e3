"""What a planner would give under other hash seeds."""

from __future__ import annotations

from typing import Any

from tiecheck.placement.planners.maps import SHOWN, Key, differing, splits
from tiecheck.placement.planners.orders import groups_in_order, numbered, orders_under
from tiecheck.placement.planners.releases import Release, release_of
from tiecheck.placement.planners.reproduction import Subject, Tool, groups_of_tool, subject_of, walk_of, written_of
from tiecheck.placement.planners.tree import Groups, declared_groups, groups_of
from tiecheck.placement.planners.walk import Tripped
from tiecheck.records.placement import Ask, Seeds


def seeds(  # noqa: PLR0913  # what a plan takes, and how many
    module: Any, tool: Tool, ask: Ask, count: int, *, version: str, quantizer: Any = None
) -> Seeds:
    """Plan under the hash seeds 0, 1, 2 and so on.

    Each seed's order of the tie groups comes from a process of its own; the plan is the reproduction's.

    Args:
        module: The module.
        tool: Whose planner.
        ask: What is asked for; the memory must be given.
        count: How many seeds.
        version: The tool's version.
        quantizer: transformers' quantizer, where there is one.

    Raises:
        OSError: Python cannot be started.
        subprocess.SubprocessError: The process fails or takes too long.
        Exception: What the tool raises before it places anything.
    """
    subject = subject_of(module, tool, ask, quantizer=quantizer)
    release = release_of(tool, version)
    if release is None:
        raise ValueError(f"what {tool} {version} does is not known")
    return seeds_of(subject, release, count)


def seeds_of(subject: Subject, release: Release, count: int) -> Seeds:
    """The same with a model that was looked at. See `seeds`."""
    tree = subject.tree
    groups = groups_of_tool(tree, subject.tool, release)
    known: dict[tuple[int, ...], dict[str, Key] | None] = {}
    tried: list[dict[str, Key] | None] = []
    for seed in range(count):
        order = _order(subject, release, groups, seed)
        if order not in known:
            walk = walk_of(subject, release, None if release.again else order)
            known[order] = None if isinstance(walk, Tripped) else walk.placed
        tried.append(known[order])
    placed = [one for one in tried if one is not None]
    meant = {*groups_of(tree), *declared_groups(tree)}
    moving: set[str] = set()
    for one in placed[1:]:
        moving |= differing(placed[0], one).keys()
    return Seeds(
        count,
        len({frozenset(written_of(subject, release, one).items()) for one in placed}),
        tuple(sorted(moving)[:SHOWN]),
        sum([splits(one, meant) for one in placed]),
        len(tried) - len(placed),
    )


def _order(subject: Subject, release: Release, groups: Groups, seed: int) -> tuple[int, ...]:
    """The order of the groups under a seed; no process is asked where there is nothing to order."""
    if len(groups) < 2 or release.again:
        return tuple(range(len(groups)))
    met = orders_under(subject.tree, seed)[subject.tool == "transformers"]
    return tuple(numbered(groups, groups_in_order(subject.tree, subject.tool, groups, met)))
