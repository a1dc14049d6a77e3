"""Why a planner trips: what its search for a tied name's module came to."""

from __future__ import annotations

from typing import Literal

from tiecheck.placement.planners.walk import Tripped, Walk
from tiecheck.records.placement import Crash

Cause = Literal["substring", "sibling", "root", "other"]


def crash_of(tripped: Tripped) -> Crash:
    """A crash, without the versions that have it."""
    tied, walk, node = tripped.tied, tripped.walk, tripped.node
    module = "" if node is None else node.name
    if tied is None:
        return Crash(tripped.error, "other", module, (module,), ())
    group = next((tuple(g) for g in walk.setting.groups if tied in g), (tied,))
    cause = _lost(walk, tied) if node is None else _cause(walk, module, tied)
    return Crash(tripped.error, cause, module, tuple(sorted(group)), ())


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
            return _unlisted(walk, tied)
        if path not in walk.pending.split_up:
            return "substring" if node.number >= 0 and _taken_for_whole(walk, path, tied) else "other"
        end = tied.find(".", end + 1)
    return "other" if tied in walk.pending.listed else _unlisted(walk, tied)


def _taken_for_whole(walk: Walk, path: str, tied: str) -> bool:
    """Whether a module was placed alone because the planner took a group for contained that is not."""
    held = walk.relevance.inside(path)
    for number, group in enumerate(walk.setting.groups):
        if tied in group and len(held.get(number, ())) == len(group):
            return not all(_within(name, path) for name in group)
    return False


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _lost(walk: Walk, name: str) -> Cause:
    """Why a declared name has no device in transformers' map (`_get_param_device`, 5.23)."""
    if walk.setting.tree.no_placement is not None:
        return "other"
    path, rest = name.partition(".")[::2]
    while path in walk.pending.split_up and rest:
        label, rest = rest.partition(".")[::2]
        path = f"{path}.{label}"
    return "other" if path in walk.pending.listed else _unlisted(walk, name)


def _unlisted(walk: Walk, name: str) -> Cause:
    """A name that no walk along `named_children()` comes to: an alias, or one that the model does not have at all."""
    return "sibling" if name in set(walk.setting.tree.names) else "other"
