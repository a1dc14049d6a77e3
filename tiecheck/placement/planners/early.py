"""The placement of accelerate before 1.2: whether a module fits is asked first without what is tied to it."""

from __future__ import annotations

from tiecheck.placement.planners.pending import Node
from tiecheck.placement.planners.sizes import Bytes
from tiecheck.placement.planners.state import Beside
from tiecheck.placement.planners.walk import Walk


def early(walk: Walk) -> None:
    """Place everything as accelerate 0.25 to 1.1 does.

    Raises:
        Tripped: Where the planner raises.
    """
    while (node := walk.take()) is not None:
        size = walk.size(node.name)
        limit, reserved = walk.room()
        used = walk.used[walk.device]
        if limit is not None and used + size > limit:
            if not walk.split(node):
                walk.next_device(node, reserved)
        elif walk.relevance.outside(node.name):
            _with_ties(walk, node, limit, reserved)
        else:
            walk.put(node, Beside((), [], size))


def _with_ties(walk: Walk, node: Node, limit: Bytes | None, reserved: Bytes) -> None:
    """Place a module that fits by itself, with what is tied to it; or split that; or take the next device."""
    beside = walk.beside(node)
    if limit is None or walk.used[walk.device] + beside.nbytes <= limit:
        walk.put(node, beside)
    elif not walk.split_beside(node, beside):
        walk.next_device(node, reserved)
