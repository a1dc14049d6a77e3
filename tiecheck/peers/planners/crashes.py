"""Why a planner trips: what its search for a tied name's module came to."""

from __future__ import annotations

from typing import Literal

from tiecheck.facts_placement import Crash
from tiecheck.peers.planners.walk import Tripped, Walk

Cause = Literal["substring", "sibling", "root", "other"]


def crash_of(tripped: Tripped) -> Crash:
    """A crash, without the versions that have it."""
    tied, walk = tripped.tied, tripped.walk
    if tied is None:
        return Crash(tripped.error, "other", tripped.node.name, (tripped.node.name,), ())
    group = next((tuple(g) for g in walk.setting.groups if tied in g), (tied,))
    return Crash(tripped.error, _cause(walk, tripped.node.name, tied), tripped.node.name, tuple(sorted(group)), ())


def _cause(walk: Walk, placing: str, tied: str) -> Cause:
    """Why no module that is in line holds a tied name."""
    if "." not in tied:
        return "root"
    group = next((g for g in walk.setting.groups if tied in g), (tied,))
    if not any(_within(name, placing) for name in group):
        return "substring"  # nothing of the group is really in what is being placed
    end = tied.find(".")
    while end >= 0:
        path = tied[:end]
        node = walk.pending.listed.get(path)
        if node is None:
            return "sibling"
        if path not in walk.pending.split_up:
            return "substring" if node.number >= 0 and _taken_for_whole(walk, path, tied) else "other"
        end = tied.find(".", end + 1)
    return "other" if tied in walk.pending.listed else "sibling"


def _taken_for_whole(walk: Walk, path: str, tied: str) -> bool:
    """Whether a module was placed alone because the planner took a group for contained that is not."""
    held = walk.relevance.inside(path)
    for number, group in enumerate(walk.setting.groups):
        if tied in group and len(held.get(number, ())) == len(group):
            return not all(_within(name, path) for name in group)
    return False


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def lost_of(walk: Walk, name: str) -> Crash:
    """What transformers raises where a declared name has no device in its map (`_get_param_device`, 5.23).

    The name in its message is empty: it goes up from the name to the root before it gives up.
    """
    group = next((tuple(g) for g in walk.setting.groups if name in g), (name,))
    end = name.find(".")
    through = name[:end] if end >= 0 else name
    while through in walk.pending.split_up and end >= 0:
        end = name.find(".", end + 1)
        through = name[:end] if end >= 0 else name
    cause: Cause = "other" if through in walk.pending.listed or walk.pending.tree.no_placement else "sibling"
    error = "ValueError: The `device_map` does not contain the module ."
    return Crash(error, cause, "", tuple(sorted(group)), ())
