"""The outcomes of stored tie groups in loaders, and of a load that transformers' own `from_pretrained` rehearsed."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Literal

from tiecheck.records.record import Record
from tiecheck.records.words import HURTS, Outcome


class LoaderView(Record):
    """The end of one tie group in one loader, in one range of versions."""

    loader: str
    """The loader, by its package's name: `transformers`, `vllm`, `sglang`, `llama.cpp`, `mlx-lm`, `mergekit`."""
    versions: str
    """The versions that behave so, e.g. `4.57`, `5`, `<0.25`."""
    outcome: Outcome
    message: str | None
    """Text it prints or raises; for `unknown` the reason."""
    checked: Literal["run", "source", "rehearsed"]
    """Source of that knowledge: the loader was run in tests, its source was read, or it was run on this checkpoint."""
    names: tuple[str, ...]
    """The group, by the names `Group.names` has."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; None where it reads none."""
    value: bool | None
    """Value of that flag; None where it is not written: absent is not false."""
    ties: bool | None
    """True where the loader takes the group for tied; None where that is not known."""
    stopped: bool = False
    """True where something else ends the whole load in this outcome, whatever the ties are."""
    lost: tuple[str, ...] = ()
    """Members that it throws away, where it ties a part of the group alone; empty where it is not told which."""

    @property
    def title(self) -> str:
        """The loader with its versions, as a sentence names it."""
        return f"{self.loader} {self.versions}" if self.versions else self.loader

    @property
    def line(self) -> str:
        """The versions; of transformers 5 its whole line, for a range of its releases too."""
        return "5" if self.loader == "transformers" and self.versions.startswith("5.") else self.versions

    def among(self, chosen: Container[tuple[str, str]] | None) -> bool:
        """Tell whether `--for` means it, whose loaders are pairs of name and versions.

        Where it names none, every loader is meant by its newest release: what only an earlier one of transformers 5
        does is told, and fails nobody who does not name that release.
        """
        return self.versions == self.line if chosen is None else (self.loader, self.versions) in chosen

    @property
    def hurts(self) -> bool:
        """True where somebody who uses this loader loses something."""
        return self.outcome in HURTS


class LoaderOutcome(Record):
    """The end of some tie groups in one loader, as reported."""

    loader: str
    """The loader."""
    versions: str
    """The versions that behave so."""
    outcome: Outcome
    """Outcome, e.g. `head-discarded`."""
    message: str | None
    """Text it prints or raises, where it does; for `unknown` the reason."""
    checked: Literal["run", "source", "rehearsed"]
    """Source of that knowledge: the loader was run in tests, its source was read, or it was run on this checkpoint."""
    reads: str | None
    """The flag it reads for this config, dotted, written or not; null where it reads none."""
    value: bool | None
    """Value of that flag; null where it is not written."""
    ties: bool | None
    """True where it takes the group for tied; null where it asks no flag or that is not known."""
    groups: int
    """Number of tie groups that come out so."""
    names: tuple[str, ...]
    """The members of those groups, sorted; capped."""


class Held(Record):
    """One parameter or persistent buffer of the model after the load, under every name it has."""

    names: tuple[str, ...]
    """Its names, sorted; more than one are one object."""
    stored: tuple[str, ...]
    """The names in the files of what it holds: one, or those that the library converts into it."""
    state: Literal["loaded", "random", "left"]
    """`loaded`, `random` (not stored and made anew), or `left` on the meta device, where a forward pass fails."""
    converted: bool = False
    """True where the library makes other values of what is stored: it joins, splits or permutes."""


class Dropped(Record):
    """A stored tensor that was loaded and then replaced by a tie."""

    name: str
    """The parameter's name it was loaded for."""
    stored: tuple[str, ...]
    """Its names in the files."""
    equal: bool | None
    """True if what replaced it holds the same values (NaN alike); None where they were not read."""


class Rehearsal(Record):
    """The word of one version of transformers on one directory."""

    version: str
    """The version of transformers, empty where none could be imported."""
    class_name: str | None
    raised: tuple[str, str] | None = None
    """The class of the exception that the load raised, and the beginning of its message."""
    unsure: str | None = None
    """Reason why the rehearsal does not tell what a real load does."""
    missing: tuple[str, ...] = ()
    """Names that the library reports as missing."""
    unexpected: tuple[str, ...] = ()
    """Names that the library reports as unexpected."""
    mismatched: tuple[str, ...] = ()
    """Names whose stored shape is another one, where it does not raise for them."""
    held: tuple[Held, ...] = ()
    """Every parameter and persistent buffer."""
    dropped: tuple[Dropped, ...] = ()
    """Tensors that were loaded and thrown away."""
    undecided: tuple[tuple[str, str], ...] = ()
    """Pairs that are one parameter if their values agree, and whose values were not read."""
    embedding: str | None = None
    """The name of the input embedding's weight."""
    head: str | None = None
    """The name of the output head's weight."""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names that are one parameter, group by group."""
        return tuple(held.names for held in self.held if len(held.names) > 1)

    @property
    def random(self) -> tuple[str, ...]:
        """The names of what was made anew."""
        return tuple(name for held in self.held if held.state == "random" for name in held.names)

    @property
    def by_name(self) -> Mapping[str, Held]:
        """Name -> what it is."""
        return {name: held for held in self.held for name in held.names}


def read_rehearsal(told: Mapping[str, Any]) -> Rehearsal:
    """Return the record of what `live/transformers/rehearse_child.py` tells as plain data."""

    def names(key: str) -> tuple[str, ...]:
        return tuple(told.get(key, ()))

    return Rehearsal(
        told.get("version", ""),
        told.get("class_name"),
        tuple(told["raised"]) if told.get("raised") else None,
        told.get("unsure"),
        names("missing"),
        names("unexpected"),
        names("mismatched"),
        tuple(Held(tuple(n), tuple(stored), *more) for n, stored, *more in told.get("parameters", ())),
        tuple(Dropped(name, tuple(stored), equal) for name, stored, equal in told.get("dropped", ())),
        tuple((one, other) for one, other in told.get("undecided", ())),
        told.get("embedding"),
        told.get("head"),
    )
