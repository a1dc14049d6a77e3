"""Groups of transformers 4.57 against those of 5: the same one, a part of one, or one that 5 has no more."""

from __future__ import annotations

from collections.abc import Iterable

from tiecheck.collect.architectures import newer_names
from tiecheck.facts import Architecture, Group, TieSpec


def older_tie(older: Architecture, group: Group) -> TieSpec | None:
    """What 4.57 does with a group that transformers 5 names: the same names, or the fewest more; None where nothing.

    Where the names hang on the config, one a layer, a group of another layer speaks for this one.
    """
    wanted = set(group.names)
    ties = sorted(older.ties, key=lambda tie: len(tie.names))
    for tie in ties:
        if wanted <= set(newer_names(tie)):
            return tie
    layers = _any_layer(wanted)
    return next((t for t in ties if not t.exact and layers == _any_layer(newer_names(t))), None)


def older_parts(older: Architecture, group: Group) -> tuple[TieSpec, ...]:
    """The groups of 4.57 that are a part of a group of transformers 5 and hang on another flag, or on none.

    Pegasus' encoder and decoder share an embedding in 4.57 whatever the flag says; in 5 a false parts them too.
    """
    wanted = _any_layer(group.names)
    return tuple(tie for tie in older.ties if _any_layer(newer_names(tie)) < wanted)


def older_only(older: Architecture, newest: Architecture) -> tuple[TieSpec, ...]:
    """The groups that 4.57 can tie and transformers 5 cannot: no group of its class has all their names.

    Of a class whose head or embedding is gone from 5, the group of the two is left out: there is nothing to be tied.
    """
    if not (older.known and newest.known):
        return ()
    kept = [_any_layer(tie.names) for tie in newest.ties]
    gone = {older.head, older.embedding} if newest.head is None or newest.embedding is None else None
    return tuple(
        tie
        for tie in older.ties
        if not any(_any_layer(newer_names(tie)) <= there for there in kept) and not (gone and gone <= set(tie.names))
    )


def _any_layer(names: Iterable[str]) -> set[str]:
    """Names with `#` in the place of every number."""
    return {".".join("#" if part.isdigit() else part for part in name.split(".")) for name in names}
