"""The words of a failed assertion about ties: what was found, how the members look, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tiecheck.errors import near_words
from tiecheck.records.words import Kind
from tiecheck.wording import python_path

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.live.member_lookup import Member

FOUND = {
    "module": "one module under several names",
    "parameter": "one parameter under several names",
    "storage": "different parameters over the same memory: each has its own gradient, and `.to(dtype)` separates them",
    "overlap": "different parameters over partly the same memory",
    "copy": "separate memory with equal bytes: equal only until one of them is written",
    "separate": "separate memory with different bytes",
    "unknown": "it cannot be told",
}
"""Meaning of each kind, in the words of a failed test."""

_LISTED = 10_000
"""Names that are looked through for one that was meant."""


def close_names(model: nn.Module, name: str) -> str:
    """Return the names of a model that look like one it does not have, as the end of a sentence."""
    from tiecheck.live.registrations import Registrations

    places = Registrations(model, buffers=True)
    known = (
        places.graph.prefixes(owner, 1)[0] + attribute
        for owner, attribute in zip(places.owners, places.attributes, strict=True)
    )
    near = near_words(name, islice(known, _LISTED), 3, 0.5)
    return f"; did you mean {' or '.join(f'`{match}`' for match in near)}?" if near else ""


def kind_text(kind: Kind, reason: str | None) -> str:
    """Return a sentence with a kind, its meaning, and what limits it."""
    if kind == "unknown" and reason:
        return f"found unknown: it cannot be told: {reason}"
    return f"found {kind}: {FOUND[kind]}" + (f" ({reason})" if reason else "")


def quoted_names(names: Iterable[str]) -> str:
    """Join names for a sentence, each as code."""
    return ", ".join(f"`{name}`" for name in names)


def member_lines(members: Iterable[Member]) -> str:
    """Return a line for each member, with dtype, shape and device of its tensor."""
    from tiecheck.live.torch_adapter import TensorDescriber

    seen = TensorDescriber()
    lines = []
    for member in members:
        if member.tensor is not None:
            shape, dtype, _, device = seen.of(member.tensor)
            size = "(not initialised)" if shape is None else list(shape)
            lines.append(f"    {member.name}: {dtype} {size} on {device}")
    return "\n".join(lines)


def tying_advice(model: nn.Module, members: Sequence[Member], kind: Kind) -> str:
    """Tell how to make the members one."""
    source, target = members[0].name, members[1].name
    if kind == "module":
        return f"to tie them as a module, register one module under both names, not two that share `{source}`"
    first = "call model.tie_weights() after loading and wrapping, or " if hasattr(model, "tie_weights") else ""
    return (
        f"to tie them, {first}assign after loading, moving and wrapping: {python_path(target)} = {python_path(source)}"
    )


def untying_advice(model: nn.Module, found: Kind, name: str, other: str) -> str:
    """Tell how to give one of two names that are one tensor memory of its own."""
    if found == "module":
        owner = python_path(_shared_module(model, name, other))
        return f"to part them, make it a module of its own: {owner} = copy.deepcopy({owner})"
    return (
        f"to part them, give one its own memory: {python_path(name)} = "
        f"torch.nn.Parameter({python_path(name)}.detach().clone())"
    )


def _shared_module(model: nn.Module, name: str, other: str) -> str:
    """Return the path of the outermost module that two names of one tensor share: to copy one inside parts nothing."""
    from tiecheck.live.member_lookup import look_up

    one, two = name.split(".")[:-1], other.split(".")[:-1]
    while one[-1:] == two[-1:] and one[:-1] and two[:-1] and one[:-1] != two[:-1]:
        above = [look_up(model, ".".join((*path[:-1], "weight"))).owner for path in (one, two)]
        if above[0] is not above[1]:
            break
        one, two = one[:-1], two[:-1]
    return ".".join(one)
