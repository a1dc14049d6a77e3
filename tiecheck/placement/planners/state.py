"""What a placement goes by and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from tiecheck.placement.planners.pending import Node
from tiecheck.placement.planners.releases import Release
from tiecheck.placement.planners.sizes import Bytes
from tiecheck.placement.planners.tree import Tree

Key = int | str
"""A device as accelerate keys it."""

Counting = Literal["theirs", "right"]
"""`theirs`: as the planner does; `right`: a module that is placed beside another is counted once."""


class Twice(NamedTuple):
    """A placement in which one module was counted for several tied names."""

    name: str
    """What was placed."""
    device: Key
    """Where."""
    tied: tuple[str, ...]
    """The names it was counted for again, sorted."""
    counted: Bytes
    """What the planner counted."""
    real: Bytes
    """What it takes."""


class Beside(NamedTuple):
    """What a planner makes of the ties of one module."""

    tied: tuple[str, ...]
    """The tied names outside of it."""
    nodes: list[Node]
    """The modules they stand in, one for each name, or each once where the release does that."""
    nbytes: Bytes
    """Bytes of it and them, as counted."""


class Setting(NamedTuple):
    """What a walk goes by."""

    tree: Tree
    """The model."""
    sizes: dict[str, Bytes]
    """Bytes by name."""
    groups: Sequence[Sequence[str]]
    """The tie groups, in the planner's order."""
    no_split: frozenset[str]
    """Class names that stay whole."""
    memory: Mapping[Key, Bytes]
    """Bytes by device, in the order in which the devices are filled."""
    release: Release
    """Whose rules."""
    counting: Counting
    """Whether to count right."""
