"""The one registry of facts: functions marked `@fact`, wanted by parameter name by rules and by other facts alike."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, MutableMapping
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from tiecheck.errors import MissingExtraError, TiecheckError, UsageError
from tiecheck.records.record import Record
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from typing import Literal
else:

    class Literal:
        """Stands for `typing.Literal`, which costs a start a fiftieth: the names alone."""

        def __class_getitem__(cls, names: str | tuple[str, ...]) -> tuple[str, ...]:
            return names if isinstance(names, tuple) else (names,)


Asked = Literal["contract", "judging", "load_options", "placing", "rehearsing", "tracing", "values"]
"""Names of the slices of `Config` that facts are made by: the user's ties, the loaders that matter, how to load or
rehearse, the placement, the forward pass to trace, and `--values`."""

Brought = Literal["adapter", "adapter_base", "draft", "gguf", "gguf_source", "onnx"]
"""Names of what the opening of an artefact reads: an adapter and its base, a draft, a GGUF file and what it was
converted from, an ONNX file."""

Read = Literal["checkpoint", "fetched", "folder", "model_config", "read_traffic", "sources", "unread_sources"]
"""Names of what the opening of a target reads: weights, the remote model, where it lies, its config, what was moved,
Python sources, and why some of those could not be read."""

Said = Literal["suppressions"]
"""Names of what the engine knows once the other rules have spoken: suppressions that took nothing back."""

Found = Literal[
    "beside_adapter", "index", "layout_names", "load_problems", "optimizer_states", "quantising", "resumed", "sharded"
]
"""Names of what it finds beside and between the weights, and gives only where there is something to tell."""

Stored = Literal["architecture", "counts", "flags", "groups", "loaders", "rehearsal", "remote", "scale"]
Artefacts = Literal["adapted_ties", "conversion", "draft_problems", "gguf_tie", "onnx_copies"]
Files = Literal["duplicates", "index_gaps", "layouts", "optimizer", "quantised", "strict_load"]
Live = Literal["built", "key_problems", "live", "live_class", "mending", "placement", "tool_views"]
Parts = Literal["aliases", "declared_ties", "derived_weights", "heads", "live_ties", "save_problems", "tie_candidates"]
Used = Literal["gradients", "traced_uses"]
Signs = Literal["bias_misfits", "equal_copies", "intended_differences"]
Lived = Literal["across_models", "held_tensors"]

Watched = Literal["other_models", "stepped_by", "survived", "tie_breaks"]
"""Names of what a guard or an operation saw, and of the optimizers and other models that were given."""

if TYPE_CHECKING:
    Make = TypeVar("Make", bound=Callable[..., Any])
    FactName = Literal[
        Asked, Brought, Read, Said, Watched, Found, Artefacts, Stored, Files, Live, Parts, Signs, Lived, Used
    ]
    """Names of all facts. Another name is an error of the type checker, and of the rule or fact that wants it."""

_KINDS = (Asked, Brought, Read, Said, Watched, Found, Artefacts, Stored, Files, Live, Parts, Signs, Lived, Used)
NAMES: frozenset[str] = frozenset().union(*_KINDS)  # type: ignore[arg-type]  # tuples of names, when it runs

MODULES = ("artefacts", "checkpoint", "live")
"""Modules that hold the functions; the first is imported for an artefact, the last for a live layer or its uses."""

SHARED: frozenset[FactName] = frozenset({"architecture", "groups", "loaders", "strict_load"})
"""Names of the facts that follow from config and headers alone, wherever those are, while no tensor byte is read."""


class Want(Record):
    """One parameter of a fact's function."""

    name: FactName
    unknown: bool
    """True where its type ends in `| Unknown`: an unknown fact is handed over. Elsewhere it makes this one unknown."""
    optional: bool
    """True where its type ends in `| None`: None stands for a fact that is not on offer, or is unknown."""


class Fact(Record):
    """A fact as its function says it."""

    name: FactName
    room: str
    """The module of the function."""
    doc: str
    """First line of its docstring."""
    wants: tuple[Want, ...]
    make: Callable[..., Any]


_facts: dict[str, Fact] = {}


def fact(make: Make) -> Make:
    """Register a function as what makes the fact of its name.

    Args:
        make: Takes other facts by the names of its parameters, and returns the fact or an `Unknown`. The end of each
            parameter's type says what becomes of one that is missing, see `Want`.

    Raises:
        TypeError: The function's name, or one of a parameter, is no fact's.
    """
    types = make.__annotations__
    name = make.__name__
    names = wanted_facts(make, f"fact {name}")
    if name not in NAMES:
        raise TypeError(f"{name!r} is not among the names of tiecheck.facts.registry.FactName")
    ends = [types[name].rpartition("]")[2] for name in names]
    wants = tuple(Want(name, "| Unknown" in end, "| None" in end) for name, end in zip(names, ends, strict=True))
    room, doc = make.__module__.rpartition(".")[2], (make.__doc__ or "").partition("\n")[0]
    _facts[name] = Fact(name, room, doc, wants, make)  # type: ignore[arg-type]  # the name was looked at just now
    return make


def field_fact(name: FactName, whole: FactName, field: str, doc: str) -> None:
    """Register a fact that is one field of another."""
    wants = (Want(whole, unknown=False, optional=False),)
    _facts[name] = Fact(name, whole, doc, wants, lambda **made: getattr(made[whole], field))


def wanted_facts(function: Callable[..., Any], owner: str) -> tuple[FactName, ...]:
    """Return the facts that a function wants, by its parameters; a name that is no fact's is a `TypeError`."""
    code: CodeType = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for name in names:
        if name not in NAMES and name != "self":
            raise TypeError(f"{owner} wants {name!r}, and no fact of tiecheck.facts.registry has that name")
    return names  # type: ignore[return-value]  # looked at just now


def all_facts() -> tuple[Fact, ...]:
    """Return every fact that a function makes, by module and name."""
    for module in MODULES:
        import_module(f"tiecheck.facts.{module}")
    return tuple(sorted(_facts.values(), key=lambda one: (one.room, one.name)))


class Facts:
    """The facts of one target, each made on demand and once.

    A fact is on offer where the target's opening gave it, or where all that its function must have is on offer. An
    error of ours in a function becomes an `Unknown`, since by then the target has been read and only that layer fails.
    """

    def __init__(
        self,
        given: Mapping[FactName, Any],
        shared: MutableMapping[str, Any] | None = None,
        withheld: Container[FactName] = (),
    ) -> None:
        """Begin with given facts, and those of `SHARED` made of the same bytes before; never make what is withheld."""
        self._withheld = withheld
        self.shared = shared
        """Facts of other targets with the same bytes, to be read and added to; None where none is known to be alike."""
        self._made: dict[FactName, Any] = dict(given)
        self._shared: MutableMapping[str, Any] = {} if shared is None else shared

    def __contains__(self, name: FactName) -> bool:
        """Tell whether the layer behind a fact was asked for at all."""
        if name in self._made:
            return True
        known = None if name in self._withheld else _facts.get(name)
        return known is not None and all(want.optional or want.name in self for want in known.wants)

    def give(self, **values: Any) -> None:
        """Put facts on offer that somebody else has made, before anything asks for them."""
        self._made.update(values)  # type: ignore[arg-type]  # a name that is no fact's is never asked for

    def get(self, name: FactName) -> Any:
        """Return the fact, or the Unknown that stands for it.

        Raises:
            KeyError: It is not on offer.
            MissingExtraError: A library of an extra is needed and not installed.
            UsageError: An option does not fit the model, as a device map that gives a module no device.
        """
        if name not in self._made:
            value = self._shared[name] if name in self._shared else self._make(_facts[name])
            if name in SHARED and not isinstance(value, Unknown):  # what an error says names the place
                self._shared[name] = value
            self._made[name] = value
        return self._made[name]

    def known(self, name: FactName) -> Any:
        """Return the fact, or None where it is unknown or was not asked for."""
        value = self.get(name) if name in self else None
        return None if isinstance(value, Unknown) else value

    def _make(self, made: Fact) -> Any:
        from tiecheck.files.limits import target_account

        target_account().check_time()
        values: dict[str, Any] = {}
        for want in made.wants:
            value = self.get(want.name) if not want.optional or want.name in self else None
            if isinstance(value, Unknown) and not want.unknown:
                if not want.optional:
                    return value
                value = None
            values[want.name] = value
        try:
            return made.make(**values)
        except (MissingExtraError, UsageError):
            raise  # what was asked for is one `pip install`, or one option, away: an error, no skip
        except TiecheckError as error:
            return Unknown(str(error))
        except SystemExit:
            return Unknown("the model's own code ended the process (sys.exit)")
