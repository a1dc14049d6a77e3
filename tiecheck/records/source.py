"""The records of Python sources: what classes build, tie, copy and initialise, in the order in which it happens."""

from __future__ import annotations

from typing import Literal

from tiecheck.records.record import Record

EventKind = Literal[
    "build", "share", "alias", "data", "parameter", "copy", "compare", "plain", "closure", "init", "clone", "retie"
]
"""Sort of what one statement does; see `Event`."""

Branch = tuple[tuple[int, int], ...]
"""The branches that lead to a statement: line of each `if`, and which of its arms."""


class Event(Record):
    """One statement that has to do with who holds which tensor.

    `build`: a module is made; `share`: a parameter is assigned as it is; `alias`: a module is; `data`: `.data` is
    assigned; `parameter`: a new `nn.Parameter` is made of another one's tensor; `copy`: values are copied;
    `compare`: two parameters are, by a statement that does nothing else; `plain`: a tensor that follows from a
    parameter becomes an attribute; `closure`: a lambda or partial over one does; `init`: values are drawn; `clone`:
    a module is deep-copied; `retie`: a call that ties again, or may (`post_init()`), is left to a base or a helper.
    """

    kind: EventKind
    target: str
    """Dotted path that is written, without `self.`; `*` for an initialisation of everything."""
    source: str
    """Dotted path that is read; of `build` the class, of `retie` the name that is called."""
    line: int
    column: int
    """1-based, both."""
    branch: Branch = ()
    form: str = ""
    """Operations on the source's tensor on the way, as `t clone`; `kept` of a `build` that takes what it replaces."""
    statement: str = ""
    """Text of the statement; empty where it does more than this one thing (two targets, a call among others)."""
    sides: tuple[str, ...] = ()
    """Text of what is written and what is read, each without operations on it; empty where that has no text."""


class Method(Record):
    """One method of a class."""

    name: str
    line: int
    column: int
    accepts: bool
    """True where it can be called with keyword arguments that it does not name."""
    arguments: tuple[str, ...]
    empty: bool
    """True where the body does nothing at all."""
    raises: bool
    """True where all that the body does is to raise."""
    calls: tuple[str, ...]
    """Dotted names that it calls, `self.` and `super().` included."""
    reads: tuple[str, ...]
    """Dotted paths under `self` that it reads."""
    events: tuple[Event, ...]
    """In the order in which they happen, with those of the class's own methods that it calls."""
    tests: tuple[tuple[int, str], ...] = ()
    """Conditions under which a module, its values or its memory are taken over: line of the `if`, and its text."""
    multiplies: tuple[tuple[str, int, int], ...] = ()
    """Parameters that it multiplies by, as the weight of a linear layer: path, line, column."""
    returns: str = ""
    """Dotted path under `self` that it returns, where it has one `return`, of such a path or of its call (`x()`)."""
    text: str = ""
    """Text of `tie_weights`, which may have to be changed; of others it is left out."""


class TiedKeys(Record):
    """The `_tied_weights_keys` of a class, as written."""

    form: Literal["list", "mapping", "none", "other"]
    pairs: tuple[tuple[str, str], ...]
    """Target and source of a mapping whose keys and values are texts; of a list each name twice."""
    line: int
    column: int
    statement: str


class ModuleClass(Record):
    """One class of a file that may be a module."""

    name: str
    line: int
    column: int
    bases: tuple[str, ...]
    """Bases as written, dotted."""
    lineage: tuple[str, ...]
    """Names of all bases that are known from the scanned file, then of those that are not: last part alone."""
    keys: TiedKeys | None
    attributes: tuple[tuple[str, int, int, str], ...]
    """Class attributes: name, line, column, text of the statement."""
    methods: tuple[Method, ...]
    built: tuple[tuple[str, str], ...]
    """Dotted path and class of each module that is built, in order; the last one of a path counts."""
    parts: tuple[tuple[str, str], ...] = ()
    """The same of what its bases and its parts build, where their classes stand in the file."""

    def method(self, name: str) -> Method | None:
        """Return the method of a name, None where the class does not define it."""
        return next((method for method in self.methods if method.name == name), None)


class LooseCall(Record):
    """A call that takes tensors out of a module's parameters: `to_empty()` and `load_state_dict(assign=True)`."""

    name: Literal["to_empty", "load_state_dict"]
    root: str
    """Variable on which it is called."""
    builds: str
    """Class of which that variable was made in the same function; empty where that is not seen."""
    tied_after: bool
    """True where something ties again after it in the same function."""
    line: int
    column: int
    statement: str = ""
    """Text of the statement, where it is nothing but the call, or an assignment of it."""


class CopiedLayer(Record):
    """A module that is deep-copied for each layer, and holds one that was handed to it."""

    layer: str
    """Class of the module that is copied."""
    child: str
    """Text of what it was handed."""
    child_class: str
    """Class of which that was built."""
    kept: bool
    """True where whoever copies keeps the child as well."""
    line: int
    column: int


class Repeated(Record):
    """An expression `[Thing(...)] * n`: one object that stands many times."""

    name: str
    """Class of the object, dotted."""
    line: int
    column: int
    expression: str
    element: str
    """Text of `Thing(...)`."""
    number: str
    """Text of `n`."""


class SourceFile(Record):
    """One Python file, or the code cells of one notebook."""

    path: str
    imports: tuple[str, ...]
    """Modules that it imports from, relative ones with their dots."""
    classes: tuple[ModuleClass, ...]
    events: tuple[Event, ...]
    """Events of functions and of the module itself."""
    calls: tuple[LooseCall, ...]
    times: tuple[Repeated, ...]
    copied: tuple[CopiedLayer, ...]
    words: tuple[tuple[str, bool, int, int], ...]
    """Names that look like a tie flag: the name, whether it is read (or defined) there, line, column."""
    ignores: tuple[tuple[int, tuple[str, ...], bool], ...]
    """Suppressions: line (0: the whole file), the codes (none: for all), and whether it is ours or another tool's."""
    notes: tuple[int, ...] = ()
    """Lines with a comment that speaks of a tie, and of none that is not to be."""
