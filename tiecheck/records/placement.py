"""The records of the placement layer: what a device map does to the ties of a model, before a weight is moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from tiecheck.records.record import Record
from tiecheck.records.words import Kind

Device = str
"""A device in torch's words with its number (`cuda:0`, `cpu`, `mps`), or `disk`, or `meta`."""


class Ask(Record):
    """The request to a planner."""

    strategy: str
    """`auto`, `balanced`, `balanced_low_0` or `sequential`."""
    memory: Mapping[int | str, int] | None
    """Bytes by device, keyed as accelerate keys them: a GPU's number, `mps`, `cpu`, `disk`; None for the machine's."""
    no_split: tuple[str, ...] | None = None
    """Class names that must stay on one device; None for those that the model's class names (`_no_split_modules`)."""
    dtype: str | None = None
    """The element type that the weights will be loaded in, torch's word; None for the model's own."""


class Crash(Record):
    """The exception of a planner on a model, and its cause."""

    error: str
    """Exception it raises, e.g. `IndexError: list index out of range`."""
    cause: Literal["substring", "sibling", "root", "other"]
    """`substring`: the planner looks for a module's name anywhere inside a tied name, and takes one that is outside for
    contained (`head.` in `lm_head.weight.`); `sibling`: the tied name runs through an alias that `named_children()`
    does not list; `root`: it stands on the root module itself; `other`: none of these."""
    module: str
    """The module that was being placed when it raised; empty where that is not known."""
    names: tuple[str, ...]
    """The tied names it tripped over."""


class Double(Record):
    """Tied memory that a planner counted more than once while it placed one module."""

    module: str
    """The module that was placed, together with the modules tied to it."""
    device: Device
    """Where they went."""
    names: tuple[str, ...]
    """The tied names because of which it counted more; sorted."""
    counted: int
    """Bytes the planner counted for them all; accelerate counts halves for types below a byte, rounded up here."""
    real: int
    """Bytes they really take there."""


class Placed(Record):
    """One tie group under one device map."""

    names: tuple[str, ...]
    """The names, sorted; capped as in `Tie`."""
    kind: Kind
    """Kind in which they hang together in the model."""
    declared: bool
    """True where the model's class, or the user's contract, declares the group."""
    devices: tuple[Device | None, ...]
    """The device of each name, by the longest key of the map that holds it; None where the map has none."""
    nbytes: int | None
    """Bytes of one member in the dtype it is loaded in."""
    seen: bool
    """True where the planner took the names for one tensor; true for a map that somebody gave."""


class Seeds(Record):
    """The plans of one planner under several values of PYTHONHASHSEED."""

    tried: int
    """Number of seeds tried."""
    maps: int
    """Number of different maps that came out; the order of their entries does not count."""
    moving: tuple[str, ...]
    """Modules whose device differs between seeds; capped."""
    splits: int
    """Under how many seeds the map splits a tie group."""
    crashes: int
    """Under how many seeds the planner raises."""


class Plan(Record):
    """The device map of one tool, or the one that was given."""

    tool: Literal["accelerate", "transformers", "given"]
    """Whose plan it is."""
    version: str
    """The tool's version; empty for a given map."""
    strategy: str
    """Strategy it was asked for; `map` for a given one."""
    device_map: Mapping[str, int | str]
    """Module (or parameter) -> device as the tool writes it, in its order; empty where it raised."""
    crash: Crash | None = None
    """Exception where there is none."""
    logged: tuple[str, ...] = ()
    """Lines the tool logged or warned while it planned, each once, in order."""
    memory: Mapping[int | str, int] = {}
    """Bytes by device that the planner allowed itself, after balancing."""
    counted: Mapping[Device, int] = {}
    """Bytes that the planner believes to have put on each device, what it kept free left out."""
    doubles: tuple[Double, ...] = ()
    """Where it counted tied memory more than once."""
    moved: Mapping[str, tuple[Device, Device]] = {}
    """Modules that stand elsewhere only because of that: (where they are, where they would be)."""
    placed: tuple[Placed, ...] = ()
    """Every tie group under it."""
    used: Mapping[Device, int] = {}
    """Bytes that really lie on each device: a tensor once on each device that has it."""
    seeds: Seeds | None = None
    """Plans under other hash seeds; None where nobody asked."""
    remarks: tuple[str, ...] = ()
    """Oddities of a map that somebody gave which stop nobody, in words."""
    blocks: Mapping[str, int] = {}
    """Bytes that each key of the map places; empty where nothing is wrong with the plans."""


class Proposal(Record):
    """A device map that keeps every tie group together."""

    device_map: Mapping[str, int | str]
    """Module -> device, as transformers and accelerate take it; empty where none fits."""
    used: Mapping[Device, int]
    """Bytes on each device."""
    lacks: int
    """Bytes that are missing where none fits within the memory; 0 where one does. With a map beside it, that map fits
    by a disk which the memory does not name."""
    reason: str | None
    """Reason why none fits, in words that can stand after "none fits: "; or what limits the map that does."""
    blocks: Mapping[str, int] = {}
    """Bytes that each key of the map places."""


LoadForm = Literal["raises", "overwrites", "untied", "copies"]
"""`raises`: it ends with an exception; `overwrites`: the loaded values are replaced by the ones the model had before;
`untied`: the members are left as different parameters; `copies`: tied in the module, held twice in memory or files."""


class PlacedLoad(Record):
    """The end of one tie group in a load under a device map, where that is not what was meant."""

    tool: Literal["accelerate", "transformers"]
    """Who loads."""
    function: str
    """The function: `from_pretrained`, `load_checkpoint_in_model`, `dispatch_model`."""
    form: LoadForm
    """Form of the damage."""
    names: tuple[str, ...]
    """The group, sorted."""
    devices: tuple[Device, ...]
    """The device of each name."""
    stored: tuple[str, ...]
    """The members that the checkpoint stores."""
    message: str | None
    """Text that is raised or logged, as the library words it; None where it is silent."""
    harmless: bool
    """True where the loaded model computes what it would with the tie."""
    versions: str
    """The versions that this was seen in by a run, or "..., by its source" where none could be made."""
    at: Literal["load", "forward"] = "load"
    """Moment it raises: in the function itself, or in the first forward pass of what it returns."""


class Placement(Record):
    """The placement layer of one model."""

    strategy: str
    """Strategy that was asked for, or `map`."""
    origin: str
    """Where that was said: `--device-map`, a file, `device_map=`."""
    memory: Mapping[int | str, int] | None
    """The memory that was given; None for the machine's own."""
    plans: tuple[Plan, ...]
    """The plans, the one that the natural loader of the target follows first."""
    proposal: Proposal | None
    """A map of our own, where a plan splits a group or raises; None where none is needed."""
    loads: tuple[PlacedLoad, ...] = ()
    """Ends of the groups in a load under the first plan."""
    warns: tuple[str, ...] = ()
    """The versions of accelerate that would log "The model weights are not tied" (see `would_warn`)."""
    installed: str | None = None
    """The installed accelerate."""
    untold: tuple[str, ...] = ()
    """Reasons why it cannot be told what loading would do to a group, one for each such group."""
    followed: tuple[tuple[str, ...], ...] = ()
    """The groups that were followed through the load, whatever came of it, the names of each sorted."""


What = Literal["tie", "missing", "device"]
"""Subject of a broken promise."""


class Promise(Record):
    """One tie group as it will be after the load."""

    names: tuple[str, ...]
    """The names that will be one tensor, sorted; capped as in `Tie`."""
    devices: tuple[Device | None, ...]
    """Where each will lie: on a device that computes, on `cpu` or `disk` behind a hook; None where the map has none."""


class Broken(Record):
    """A promise that a loaded model does not keep."""

    what: What
    """Subject of the promise."""
    names: tuple[str, ...]
    """The group, or the members that it is about."""
    promised: str
    """Promised state, in words that can stand after "promised: "."""
    found: str
    """Real state, in words that can stand after "found: "."""
    help: str
    """Advice to fix it."""


class TreeTensor(NamedTuple):
    """One attribute of a module that registers a parameter or a buffer."""

    attribute: str
    """The attribute's name."""
    number: int
    """The number of the tensor, an index of `ModuleTree.sizes`: equal numbers, one tensor."""
    persistent: bool
    """True where a state dict has it."""


class TreeNode(NamedTuple):
    """One path of a module. A module that is registered twice has two nodes, and so has everything below it."""

    parent: int
    """The node that registers it; -1 for the root."""
    label: str
    """The attribute it is registered under; empty for the root."""
    class_name: str
    """The module's class."""
    tensors: tuple[TreeTensor, ...]
    """Tensors that the module itself registers, in the order of registration, parameters first."""
    alias: bool
    """True where the module stands earlier in the tree under another path."""
    module: int = -1
    """The number of the first node of the same module."""


class ModuleTree(Record):
    """Every path of a model, parents before children, in the order of registration (depth first)."""

    nodes: tuple[TreeNode, ...]
    """The paths; the root first."""
    sizes: tuple[int, ...]
    """Bytes of each distinct tensor, in the element type it will be loaded in."""

    def path(self, node: int, attribute: str = "") -> str:
        """Return the dotted path of a node, or of an attribute there."""
        parts = [attribute] if attribute else []
        while node > 0:
            parts.append(self.nodes[node].label)
            node = self.nodes[node].parent
        return ".".join(reversed(parts))

    def paths(self) -> list[str]:
        """Return the dotted path of each node."""
        found: list[str] = []
        for node in self.nodes:
            above = found[node.parent] if node.parent >= 0 else ""
            found.append(f"{above}.{node.label}" if above else node.label)
        return found

    def numbers(self) -> dict[str, int]:
        """Return each name -> the number of its tensor."""
        pairs = zip(self.paths(), self.nodes, strict=True)
        held = ((f"{path}.", tensor) for path, node in pairs for tensor in node.tensors)
        return {(path + tensor.attribute).removeprefix("."): tensor.number for path, tensor in held}

    def ends(self) -> list[int]:
        """Return for each node the number after the last one below it."""
        ends = list(range(1, len(self.nodes) + 1))
        for number in range(len(self.nodes) - 1, 0, -1):
            parent = self.nodes[number].parent
            ends[parent] = max(ends[parent], ends[number])
        return ends
