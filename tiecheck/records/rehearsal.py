"""A rehearsed load: what transformers' own `from_pretrained` did with a directory, told by parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tiecheck.records.record import Record


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
    warnings: tuple[str, ...] = ()
    """The library's warnings, each by its beginning."""

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
        names("warnings"),
    )
