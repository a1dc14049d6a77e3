"""The tie groups that somebody expects, held against the ones a module has.

A group is found by its tensor and not by its names, so that a name that is missing, or one too many, is told as a
difference of that group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from tiecheck.config.options import Groups, read_groups
from tiecheck.errors import UsageError
from tiecheck.files.local import paused_collector
from tiecheck.guard.errors import close_names, kind_text, member_lines, quoted_names, tying_advice, untying_advice
from tiecheck.live.group_kind import judge_members
from tiecheck.live.member_lookup import Member, look_up
from tiecheck.live.registrations import Registrations
from tiecheck.live.ties import ties_of
from tiecheck.live.wrappers import UserNames
from tiecheck.records.live import Tie
from tiecheck.records.words import TIED, Kind
from tiecheck.union_find import joined_names

CAP = 10_000
"""Names of a real group that are listed; one with more is no group that somebody wrote down."""

PATTERN = "*^$|+?[(\\"
"""Characters that a name does not hold and a pattern of transformers does."""

SHOWN = 8
"""Groups that a message tells of in full, and names of a group that it lists."""


class Real(NamedTuple):
    """A group of names of a module that are one tensor."""

    names: tuple[str, ...]
    """The names, sorted; capped."""
    total: int | None
    """Number of names there are; None where a cycle makes them endless."""
    kind: Kind
    """`module` or `parameter`."""


def read_expected(expected: Iterable[Iterable[str]] | Mapping[str, str]) -> Groups:
    """Read the expected groups, from groups or from target to source; anything else is a `ValueError`."""
    try:
        if isinstance(expected, Mapping):
            return read_groups(_joined(expected), "the expected ties")
        return read_groups(expected, "the expected ties")
    except UsageError as error:
        raise ValueError(str(error)) from error


def _joined(pairs: Mapping[str, Any]) -> list[list[str]]:
    """Join pairs of target and source to groups: what has a name in common is one."""
    for target, source in pairs.items():
        if not isinstance(source, str) or target == source:
            raise UsageError(f"the expected ties: {target!r} is to be tied to another name, not to {source!r}")
    return joined_names((source, target) for target, source in pairs.items())


def differences_text(model: nn.Module, expected: Groups, *, buffers: bool) -> str:
    """Describe what differs from disjoint groups: the end of a sentence and a paragraph a group; else empty."""
    cap = max(CAP, 2 * sum(map(len, expected)))
    with paused_collector():
        places = Registrations(model, buffers=buffers)
        user = UserNames(places.graph)
        groups = _real(model, ties_of(places, cap), user)
    real = {_key(look_up(model, group.names[0])): group for group in groups}
    missing: list[str] = []
    differing: list[str] = []
    claimed: set[int] = set()
    for given in expected:
        members = [look_up(model, name) for name in dict.fromkeys(map(user.of, given))]
        tensors = {_key(member): member.name for member in members}
        claimed |= tensors.keys()
        held = [real[tensor] for tensor in tensors if tensor in real]
        told = [] if _merged_by_export(model, members) else _told(model, members, held, buffers=buffers)
        if told:
            together = any(not set(group.names).isdisjoint(tensors.values()) for group in held)
            (differing if together else missing).append("\n".join([_short([m.name for m in members]), *told]))
    extra = [_unexpected(model, group) for tensor, group in real.items() if tensor not in claimed]
    return _sentence(("missing", missing), ("different", differing), ("not expected", extra))


def _key(member: Member) -> int:
    """Identify a tensor by the object that is registered, also where an offloader keeps its values."""
    if member.owner is None:
        return id(member.tensor)
    held = member.owner._parameters.get(member.attribute)
    return id(held if held is not None else member.owner._buffers.get(member.attribute, member.tensor))


def _merged_by_export(model: nn.Module, members: Sequence[Member]) -> bool:
    """Return True if torch.export (2.13, strict) has kept one name of a group: it holds, as one tensor of one name."""
    exported = any(
        f"{cls.__module__}.{cls.__name__}" == "torch.fx.graph_module.GraphModule" for cls in type(model).__mro__
    )
    return exported and sum(member.tensor is not None for member in members) == 1


def _sentence(*kinds: tuple[str, list[str]]) -> str:
    counts = ", ".join(f"{len(told)} {word}" for word, told in kinds if told)
    paragraphs = [f"  {word}: {text}" for word, told in kinds for text in told]
    more = len(paragraphs) - SHOWN
    if more > 0:
        paragraphs[SHOWN:] = [f"  and {more} more"]
    return "\n".join([counts, *paragraphs])


def _real(model: nn.Module, ties: Iterable[Tie], user: UserNames) -> list[Real]:
    """Return the groups that are one tensor each, without wrappers; those that only share memory are taken apart."""
    groups = []
    for tie in ties:
        names = user.all_of(tie.names)
        if tie.kind not in TIED:
            groups += _parts(model, names)
        elif len(names) > 1:
            total = tie.names_total if tie.names_total != len(tie.names) else len(names)
            groups.append(Real(names, total, tie.kind))
    return groups


def _parts(model: nn.Module, names: Iterable[str]) -> list[Real]:
    """Split the names of a group that only shares memory, by tensor."""
    held: dict[int, list[Member]] = {}
    for name in names:
        member = look_up(model, name)
        held.setdefault(_key(member), []).append(member)
    return [Real(tuple(m.name for m in part), len(part), _kind(part)) for part in held.values() if len(part) > 1]


def _kind(members: Sequence[Member]) -> Kind:
    return "module" if len({(id(m.owner), m.attribute) for m in members}) == 1 else "parameter"


def _told(model: nn.Module, members: list[Member], held: list[Real], *, buffers: bool) -> list[str]:
    """Describe a group that is not as expected, and what to change; nothing where it is as expected."""
    names = [member.name for member in members]
    odd = {member.name: why for member in members if (why := _odd(model, member, buffers=buffers))}
    lines = [f"    {why}" for why in odd.values()]
    if len(names) == 1:
        lines.append("    it is one name, with and without its wrapper")
    sound = [member for member in members if member.name not in odd]
    if len({_key(member) for member in sound}) > 1:
        lines += _apart(model, sound)
    for group in held:
        others = [name for name in group.names if name not in names]
        if group.total is None:
            lines.append("    it has endlessly many names: a module is registered below itself")
        elif others:
            lines.append(f"    also the same tensor, by the {group.kind}: {_short(others, _more(group))}")
            lines.append(f"    {untying_advice(model, group.kind, others[0], names[0])}; or expect it too")
    return lines


def _apart(model: nn.Module, members: list[Member]) -> list[str]:
    """Describe how members that are not one tensor hang together; nothing where they are tied (offloaded)."""
    verdict = judge_members(members)
    if verdict.kind in TIED:
        return []
    lines = [f"    {kind_text(verdict.kind, verdict.reason)}"]
    lines += [f"      one tensor: {_short(part)}" for part in verdict.parts if len(part) > 1]
    lines += [f"  {line}" for line in member_lines(members[:SHOWN]).splitlines()]
    first, *others = _firsts(members, verdict.parts)
    return lines + [f"    {tying_advice(model, (first, other), 'parameter')}" for other in others[: SHOWN - 1]]


def _firsts(members: list[Member], parts: Iterable[Sequence[str]]) -> list[Member]:
    """Return one member of each part, in the order in which they were expected."""
    named = {member.name: i for i, member in enumerate(members)}
    return [members[i] for i in sorted(min(named[name] for name in part) for part in parts)]


def _odd(model: nn.Module, member: Member, *, buffers: bool) -> str | None:
    """Return the reason why a name cannot be a member of a group."""
    if member.tensor is None:
        pattern = not set(PATTERN).isdisjoint(member.name)
        hint = "; names are taken as they are, not as patterns" if pattern else close_names(model, member.name)
        return f"{member.why}{hint}"
    owner = member.owner
    if owner is not None and owner._buffers.get(member.attribute) is member.tensor and not buffers:
        return f"`{member.name}` is a buffer, and buffers=True was not given"
    if owner is not None and member.attribute not in owner._parameters and member.attribute not in owner._buffers:
        return f"`{member.name}` is not registered: it passes on another module's parameter"
    return None


def _unexpected(model: nn.Module, group: Real) -> str:
    members = [look_up(model, name) for name in group.names[:SHOWN]]
    lines = [_short(group.names, _more(group)), f"    {kind_text(group.kind, None)}"]
    lines += [f"  {line}" for line in member_lines(members).splitlines()]
    return "\n".join([*lines, f"    {untying_advice(model, group.kind, *group.names[:2])}; or expect it too"])


def _more(group: Real) -> int | None:
    """Count the names of a group beyond those listed; None for endlessly many."""
    return None if group.total is None else group.total - len(group.names)


def _short(names: Sequence[str], more: int | None = 0) -> str:
    """List names, the first few of them."""
    rest = None if more is None else more + len(names) - len(names[:SHOWN])
    text = quoted_names(names[:SHOWN])
    if rest is None:
        return f"{text} and endlessly many more (a module is registered below itself)"
    return f"{text} and {rest:,} more" if rest else text
