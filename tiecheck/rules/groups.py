"""How the rules on stored groups read a group: who declares it, where it is stored, and what could not be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tiecheck.facts import Group, Unknown
from tiecheck.report import Confidence, Location
from tiecheck.rules.wording import listed


def uncompared(group: Group, *, tied: bool) -> Iterator[Unknown]:
    """A group whose stored members could not be compared, for the rules that hang on it."""
    if group.stored == "unknown" and len(group.stored_names) > 1 and bool(group.declared) == tied:
        yield Unknown(f"{listed(group.stored_names)} were not compared: {group.reason}")


def tied_by_intent(group: Group) -> bool:
    """Declared as tied, and not merely forced by the class against a flag that says otherwise (T5's false)."""
    return group.declared is True and not (group.flag is not None and group.flag.value is False)


def confidence(group: Group) -> Confidence:
    """Medium for a group that was guessed from names and shapes."""
    return "medium" if group.inferred else "high"


def word(group: Group) -> str:
    """What the deciding flag says."""
    return "false" if group.flag is not None and group.flag.value is False else "true"


def flag_name(group: Group) -> str:
    """The flag that decides, with its level, written or not."""
    return group.flag.dotted if group.flag else ".".join((*group.level, "tie_word_embeddings"))


def tying(group: Group) -> str:
    """How the tie is declared, or made where nothing declares it."""
    return f"set {flag_name(group)} to true" if group.declared_by else "tie the two in the code"


def who(group: Group) -> str:
    """Who declares the group, as the beginning of a sentence that goes on with "that"."""
    return f"{group.declared_by[0]} says" if group.declared_by else "the names suggest"


def declaration(group: Group, where: Literal["primary", "related"] = "primary") -> Location:
    """Where it is declared: the flag's line, or the config that does not say."""
    if group.flag:
        return Location(
            "config.json", group.flag.line, group.flag.column, where, f"{group.flag.dotted} is {word(group)}"
        )
    note = group.declared_by[0] if group.declared_by else "nothing is said about tying"
    return Location("config.json", None, None, where, note)


def stored(group: Group, *, primary: bool = False) -> tuple[Location, ...]:
    """Where each stored member lies."""
    return tuple(
        Location(
            tensor.file,
            None,
            None,
            "primary" if primary and i == 0 else "related",
            f"{tensor.name}, {tensor.dtype} {list(tensor.shape)}",
        )
        for i, tensor in enumerate(group.tensors)
    )
