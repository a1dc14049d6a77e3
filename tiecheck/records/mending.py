"""The record of what the mends of a live module are made by."""

from __future__ import annotations

from tiecheck.records.hops import Hop
from tiecheck.records.live import Alias, DeclaredTie, KeyProblem, LiveModel
from tiecheck.records.record import Record


class Mending(Record):
    """Knowledge of a live module that its mends need."""

    class_name: str
    wrappers: tuple[str, ...]
    """Wrappers of the model or parts of it, from the outside in."""
    flag: bool | None
    """`config.tie_word_embeddings` as the outermost model reads it; None where there is no such config."""
    declared: tuple[DeclaredTie, ...]
    """Groups that the class declares as tied under the config it has."""
    aliases: tuple[Alias, ...]
    """Modules with parameters under several paths."""
    problems: tuple[KeyProblem, ...]
    """Mistakes in the classes' declarations themselves."""
    fixed: tuple[str, ...]
    """Flags whose false a save and a load make true."""
    keyed: tuple[str, ...] = ()
    """Paths of dictionaries of modules or parameters."""
    sharded_apart: tuple[tuple[str, ...], ...] = ()
    """Names that were one parameter before FSDP2 put them into groups of their own."""
    hops: tuple[Hop, ...] = ()
    """The wrappers on the way to members, from the outside in."""


def mending_of(live: LiveModel) -> Mending:
    """Return the parts of a live model that its mends have to know."""
    return Mending(*(getattr(live, field) for field in Mending._fields))
