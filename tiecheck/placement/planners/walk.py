"""The placement itself, as the planners do it, from plain data.

One module after the other goes to the current device, with the modules that are tied to it, as long as they fit; else
it, or what is tied to it, is split, or the next device is taken. `modern` is the loop of accelerate from 1.2 and of
transformers 5 (`infer_auto_device_map`); `early.py` has the one before.
"""

from __future__ import annotations

from typing import Any

from tiecheck.placement.planners.layers import Layers
from tiecheck.placement.planners.pending import Node, Pending
from tiecheck.placement.planners.relevance import Relevance
from tiecheck.placement.planners.sizes import Bytes
from tiecheck.placement.planners.state import Beside, Key, Setting, Twice
from tiecheck.placement.planners.tree import names_within


class Tripped(Exception):  # noqa: N818  # it is the planner's error, and a result of ours
    """The planner would raise here."""

    def __init__(self, error: str, node: Node | None, tied: str | None, walk: Walk) -> None:
        """Keep where it was.

        Args:
            error: What it raises.
            node: What was being placed; None where all was.
            tied: The tied name it was looking for; None where it was looking for something else.
            walk: The state it was in.
        """
        super().__init__(error)
        self.error = error
        self.node = node
        self.tied = tied
        self.walk = walk


class Walk:
    """One placement."""

    def __init__(self, setting: Setting) -> None:
        """Begin: nothing is placed.

        Args:
            setting: What to go by.
        """
        self.setting = setting
        self.release = setting.release
        self.relevance = Relevance(setting.groups, dotted=setting.release.dotted)
        self.pending = Pending(setting.tree, setting.no_split)
        row: list[Any] = [0] * self.pending.length
        tensors = set()
        for position, name, is_tensor in self.pending.layers():
            row[position] = setting.sizes.get(name, 0)
            if is_tensor:
                tensors.add(position)
        self.layers = Layers(row, tensors)
        self.layers.look(0, first=True)
        self.devices: list[Key] = [*setting.memory] if "disk" in setting.memory else [*setting.memory, "disk"]
        self.gpus = [device for device in self.devices if device not in ("cpu", "disk")]
        first: list[Key] = [self.gpus[0]] if self.gpus else []
        self.main: list[Key] = ["mps"] if "mps" in self.gpus else [*first, "cpu"]
        self.current = 0
        self.used: dict[Key, Bytes] = dict.fromkeys(self.devices, 0)
        self.kept_free: dict[Key, Bytes] = {}
        self.placed: dict[str, Key] = {}
        """Everything that was placed, in order: the planner's map before it is cleaned."""
        self.twice: list[Twice] = []

    @property
    def device(self) -> Key:
        """The current device."""
        return self.devices[self.current]

    def size(self, name: str) -> Bytes:
        """Bytes of a module or tensor."""
        return self.setting.sizes.get(name, 0)

    def room(self) -> tuple[Bytes | None, Bytes]:
        """Bytes the current device may take in all, None for the disk; and what is kept free of it."""
        device = self.device
        limit = None if device == "disk" else self.setting.memory[device]
        if device in self.main:
            return limit - self.layers.largest, self.layers.largest
        return limit, 0

    def take(self) -> Node | None:
        """The next module or tensor in line; the largest layer is looked for anew where it was in those before."""
        node = self.pending.pop()
        if node is not None and not self.layers.any_left(node.high):
            self.layers.look(node.high)
        return node

    def beside(self, node: Node) -> Beside:
        """What is tied to a module and where it stands.

        Raises:
            Tripped: One of the tied names stands in nothing that is still in line.
        """
        tied = self.relevance.outside(node.name)
        nodes: list[Node] = []
        nbytes = self.size(node.name)
        seen: set[str] = set()
        for name in tied:
            find = self.pending.holder if self.release.prefix else self.pending.within
            found = find(name, node.name)
            if found is None:
                raise Tripped("IndexError: list index out of range", node, name, self)
            again = found.name in seen
            seen.add(found.name)
            if self.release.once:
                if not again:
                    nodes.append(found)
                    nbytes += self.size(found.name)
                continue
            nodes.append(found)
            if self.setting.counting == "theirs":
                nbytes += self.size(found.name) - self.size(name)
            elif not again:
                nbytes += self.size(found.name)
        return Beside(tied, nodes, nbytes)

    def put(self, node: Node, beside: Beside) -> None:
        """Place a module and what is tied to it on the current device."""
        device = self.device
        self.used[device] += beside.nbytes
        self.placed[node.name] = device
        self.pending.gone.add(node.name)
        for other in beside.nodes:
            if other.name not in self.pending.gone:
                self.pending.gone.add(other.name)
                self.layers.take(other.low, other.high)
            self.placed[other.name] = device
        if len(beside.nodes) > 1 and not self.release.once:
            self._note(node, beside)

    def _note(self, node: Node, beside: Beside) -> None:
        """Remember a placement in which a module was counted for more than one name."""
        holders = [other.name for other in beside.nodes]
        real = self.size(node.name) + sum([self.size(name) for name in dict.fromkeys(holders)])
        if beside.nbytes > real:
            names = [tied for tied, holder in zip(beside.tied, holders, strict=True) if holders.count(holder) > 1]
            self.twice.append(Twice(node.name, self.device, tuple(sorted(names)), beside.nbytes, real))

    def split_beside(self, node: Node, beside: Beside) -> bool:
        """Split the first of the tied modules that can be; whether there was one.

        Raises:
            Tripped: accelerate up to 1.2 takes a tensor for what holds a name, and asks it for its children.
        """
        for other in beside.nodes:
            if other.number < 0:
                raise Tripped(_no_children(self, other), node, None, self)
            if not self.pending.whole(other.number):
                self.pending.split(other)
                self.pending.push(node)
                self.layers.look(node.low)
                return True
        return False

    def split(self, node: Node) -> bool:
        """Split a module that does not fit; whether it could be.

        Raises:
            Tripped: accelerate up to 0.27 asks a buffer for its children.
        """
        if node.number < 0:
            if not self.release.tensors and _kind(self, node) != "Parameter":
                raise Tripped(_no_children(self, node), node, None, self)
            return False
        if self.pending.whole(node.number):
            return False
        self.pending.split(node)
        self.pending.push(node)
        self.layers.look(node.low)
        return True

    def next_device(self, node: Node, reserved: Bytes) -> None:
        """Go on to the next device with what is in hand."""
        self.kept_free[self.device] = reserved
        self.used[self.device] += reserved
        self.current += 1
        self.pending.push(node)

    def counted(self) -> dict[Key, Bytes]:
        """Bytes the planner believes to have put on each device, without what it kept free."""
        found = {device: self.used[device] - self.kept_free.get(device, 0) for device in self.devices}
        return {device: nbytes for device, nbytes in found.items() if nbytes}


def _kind(walk: Walk, node: Node) -> str:
    """The class of a tensor."""
    return next((type(e.tensor).__name__ for e in walk.setting.tree.entries if e.name == node.name), "Parameter")


def _no_children(walk: Walk, node: Node) -> str:
    return f"AttributeError: '{_kind(walk, node)}' object has no attribute 'named_children'"


def modern(walk: Walk) -> None:
    """Place everything as accelerate from 1.2 and transformers 5 do.

    Raises:
        Tripped: Where the planner raises.
    """
    release = walk.release
    while (node := walk.take()) is not None:
        size = walk.size(node.name)
        limit, reserved = walk.room()
        beside = walk.beside(node)
        used = walk.used[walk.device]
        if limit is None or used + beside.nbytes <= limit:
            walk.put(node, beside)
            continue
        if beside.tied and used + size <= limit and walk.split_beside(node, beside):
            continue
        if (release.always or used + size >= limit) and (walk.split(node) or _escaped(walk, node, beside)):
            continue
        walk.next_device(node, reserved)


def _escaped(walk: Walk, node: Node, beside: Beside) -> bool:
    """Whether transformers from 5.16 leaves `_no_placement_params` out of the map and places what is beside them.

    It does for a module that stays whole, holds one, and would not fit on the next device, a GPU, either.
    """
    tree = walk.setting.tree
    if not walk.release.escapes or tree.no_placement is None or node.number < 0:
        return False
    if tree.classes[node.number] not in walk.setting.no_split:
        return False
    following = walk.devices[walk.current + 1]
    if following not in walk.gpus or walk.used[following] + beside.nbytes <= walk.setting.memory[following]:
        return False
    parameters, buffers = names_within(tree, node.number)
    if not any(name in tree.no_placement for name in parameters):
        return False
    walk.pending.escape(node, [name for name in (*parameters, *buffers) if name not in tree.no_placement])
    return True
