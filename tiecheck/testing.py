"""Assertions about ties, for tests: the model is asked once, about the names given and nothing else."""

from __future__ import annotations

import difflib
from itertools import islice
from typing import TYPE_CHECKING

from tiecheck.facts import KINDS, Kind

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.collect.live_declared import Verdict
    from tiecheck.collect.lookup import Member

__all__ = ["assert_not_tied", "assert_tied"]

_FOUND = {
    "module": "one module under several names",
    "parameter": "one parameter under several names",
    "storage": "different parameters over the same memory: each has its own gradient, and `.to(dtype)` parts them",
    "overlap": "different parameters over partly the same memory",
    "copy": "separate memory with equal bytes: equal only until one of them is written",
    "separate": "separate memory with different bytes",
    "unknown": "it cannot be told",
}
"""What each kind means, in the words of a failed test."""

_LISTED = 10_000
"""Names that are looked through for one that was meant."""


def assert_tied(model: nn.Module, *names: str, kind: Kind = "parameter") -> None:
    """Assert that some names of a model are tied.

    Args:
        model: The model, as it is now.
        names: Two or more names of parameters or buffers.
        kind: The least strength wanted: `module` > `parameter` > `storage` > `overlap` > `copy`.

    Raises:
        AssertionError: If they hang together more weakly, with what was found and what to change.
        AttributeError: If the model has no such name, as torch 2.13 `get_parameter` raises it; with close matches.
        TypeError: If `model` is no module.
        ValueError: If fewer than two names are given, or no kind of that name can be wanted.
    """
    __tracebackhide__ = True
    wanted = KINDS.index(kind) if kind in KINDS else len(KINDS)
    if wanted > KINDS.index("copy"):
        raise ValueError(f"kind must be one of {', '.join(KINDS[:5])}, not {kind!r}")
    members, verdict = _look(model, names)
    if KINDS.index(verdict.kind) > wanted:
        meaning = _FOUND[verdict.kind] + (f" ({verdict.reason})" if verdict.reason else "")
        raise AssertionError(
            f"not tied as {kind}: {_listed(names)}\n"
            f"  found {verdict.kind}: {meaning}\n"
            f"{_members(members)}\n"
            f"  {_cure(model, members, kind)}"
        )


def assert_not_tied(model: nn.Module, *names: str) -> None:
    """Assert that no two of some names of a model share anything: module, parameter or memory.

    Args:
        model: The model, as it is now.
        names: Two or more names of parameters or buffers.

    Raises:
        AssertionError: If two of them are one tensor, share memory, or may share it for all that can be told.
        AttributeError: If the model has no such name; with close matches.
        ValueError: If fewer than two names are given.
    """
    __tracebackhide__ = True
    members, verdict = _look(model, names)
    shared = [(found, group) for found, group in verdict.links]
    for part in verdict.parts:
        if len(part) > 1:
            owners = {(id(m.owner), m.attribute) for m in members if m.name in part}
            shared.append(("module" if len(owners) == 1 else "parameter", part))
    if verdict.kind == "unknown" and not shared:
        shared.append(("unknown", tuple(sorted(names))))
    if shared:
        found, group = min(shared, key=lambda pair: (KINDS.index(pair[0]), pair[1]))
        meaning = f"it cannot be told: {verdict.reason}" if found == "unknown" else _FOUND[found]
        raise AssertionError(
            f"tied: {_listed(group)}\n"
            f"  found {found}: {meaning}\n"
            f"{_members([m for m in members if m.name in group])}\n"
            f"  {_parting(found, group[0])}"
        )


def _look(model: nn.Module, names: tuple[str, ...]) -> tuple[list[Member], Verdict]:
    """Look names up, and how they hang together."""
    from tiecheck.collect.live_declared import judge
    from tiecheck.collect.lookup import look_up

    __tracebackhide__ = True
    if not hasattr(model, "named_parameters"):
        raise TypeError(f"a torch.nn.Module is wanted, not a {type(model).__name__}")
    if len(set(names)) < 2:  # a tie has two ends
        raise ValueError("two or more different names are wanted")
    members = [look_up(model, name) for name in dict.fromkeys(names)]
    for member in members:
        if member.tensor is None:
            raise AttributeError(f"{type(model).__name__}: {member.why}{_close(model, member.name)}")
    return members, judge(members)


def _close(model: nn.Module, name: str) -> str:
    """The names of a model that look like one it does not have."""
    from tiecheck.collect.alias_graph import Registrations

    places = Registrations(model, buffers=True)
    known = (
        places.graph.prefixes(owner, 1)[0] + attribute
        for owner, attribute in zip(places.owners, places.attributes, strict=True)
    )
    close = difflib.get_close_matches(name, list(islice(known, _LISTED)), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else ""


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _members(members: list[Member]) -> str:
    """A line a member: how its tensor looks."""
    from tiecheck.collect.torch_adapter import Looks

    looks = Looks()
    lines = []
    for member in members:
        if member.tensor is not None:
            shape, dtype, _, device = looks.of(member.tensor)
            size = "(not initialised)" if shape is None else list(shape)
            lines.append(f"    {member.name}: {dtype} {size} on {device}")
    return "\n".join(lines)


def _cure(model: nn.Module, members: list[Member], kind: Kind) -> str:
    """What makes the members one."""
    source, target = members[0].name, members[1].name
    if kind == "module":
        return f"to tie them as a module, register one module under both names, not two that share `{source}`"
    first = "call model.tie_weights() after loading and wrapping, or " if hasattr(model, "tie_weights") else ""
    return f"to tie them, {first}assign after loading, moving and wrapping: {_place(target)} = {_place(source)}"


def _parting(found: Kind, name: str) -> str:
    """What gives one member memory of its own."""
    if found == "module":
        owner = _place(name.rpartition(".")[0])
        return f"to part them, make it a module of its own: {owner} = copy.deepcopy({owner})"
    return (
        f"to part them, give one its own memory: {_place(name)} = torch.nn.Parameter({_place(name)}.detach().clone())"
    )


def _place(name: str) -> str:
    """A name as Python reaches it: `layers.0.weight` is `model.layers[0].weight`."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))
