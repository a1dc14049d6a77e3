"""The errors that a gate raises, and the words of them and of failed assertions about ties."""

from __future__ import annotations

import pprint
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from tiecheck.errors import TargetError, TiecheckError, near_words
from tiecheck.wording import listed, size

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.live.member_lookup import Member
    from tiecheck.records.life import Break
    from tiecheck.records.placement import Broken, Placed, Placement
    from tiecheck.records.report import Finding, Report, TargetReport
    from tiecheck.records.words import Kind


SHOWN = 8
"""Findings, broken promises and lines of a map that a message shows."""


class PlacementError(TiecheckError):
    """Loading a model under a device map will hurt: what `tiecheck.gate` raises before a weight is moved."""

    lines = True

    def __init__(self, message: str, report: Report, device_map: Mapping[str, Any] | None) -> None:
        super().__init__(message)
        self.report = report
        """The report whose findings say so."""
        self.device_map = device_map
        """The map that works better, or the planner's own where the map is not what hurts; None where there is none."""


class TieBroken(AssertionError):  # noqa: N818 - a state of the model, as AssertionError's own name is no verb either
    """A tie that was promised does not hold, or does not lie where it was to lie."""

    def __init__(self, message: str, broken: tuple[Broken, ...] | tuple[Break, ...]) -> None:
        super().__init__(message)
        self.broken = broken
        """Promises that a load broke: the names, what was promised, what is, and how to fix it; of a guard the ties
        that broke, each with its `operation`, and the line in `since`."""


class TieWarning(UserWarning):
    """A tie broke, its values were overwritten, or it cannot be looked for, under a guard that does not raise."""


def placement_of(report: Report) -> Placement:
    """Return the placement of a report's one target; a `TiecheckError` tells why there is none."""
    target = report.targets[0]
    if target.errors:
        raise TargetError("; ".join(error.message for error in target.errors), target.errors[0].path)
    if target.placement is None:
        reasons = dict.fromkeys(skip.reason for skip in target.skips if skip.code.startswith("TIE5"))
        why = "; ".join(reasons) or "; ".join(dict.fromkeys(skip.reason for skip in target.skips))
        why = why or "its modules are not known"
        raise TargetError(f"no plan can be made for {target.target}: {why}", target.target)
    return target.placement


def no_map_text(placement: Placement) -> str:
    """Return the reason why there is no map to load with."""
    crash = placement.plans[0].crash if placement.plans else None
    raised = f"the planner raises {crash.error}" if crash is not None else "there is no plan"
    proposal = placement.proposal
    if proposal is None:
        return f"{raised}, and no map of ours was made"
    return f"{raised}, and no map of ours fits: {proposal.reason}; {size(proposal.lacks)} are missing"


def hurting_text(target: TargetReport, hurting: Sequence[Finding], placement: Placement) -> str:
    """Tell why loading a target under a map hurts, in lines: codes, groups, devices, and how to fix it."""
    what = placement.origin if placement.strategy == "map" else f"device_map={placement.strategy!r}"
    lines = [f"loading {target.target} under {what.rstrip('=')} will hurt"]
    for finding in hurting[:SHOWN]:
        lines.append(f"  {finding.code} {finding.name}: {finding.message}")
        lines += [f"    {line}" for line in _devices(finding, placement)]
        lines.append(f"    {finding.help}")
    if len(hurting) > SHOWN:
        lines.append(f"  and {len(hurting) - SHOWN} more")
    lines += _proposed(placement)
    return "\n".join(lines)


def _devices(finding: Finding, placement: Placement) -> Iterator[str]:
    """Yield where the first plan puts the members that a finding is about, if it separates them."""
    groups: tuple[Placed, ...] = placement.plans[0].placed if placement.plans else ()
    for group in groups:
        if set(finding.names) >= set(group.names) and len(set(group.devices)) > 1:
            pairs = zip(group.names[:SHOWN], group.devices, strict=False)
            yield ", ".join(f"{name} on {device or 'no device'}" for name, device in pairs)


def _proposed(placement: Placement) -> list[str]:
    """Return the lines with the map that works, or with the reason why there is none."""
    from tiecheck.placement.load_outcomes import is_sound

    proposal = placement.proposal
    if proposal is None or is_sound(placement):
        return []
    if not proposal.device_map:
        return [f"  no map keeps them together: {proposal.reason}; {size(proposal.lacks)} are missing"]
    text = pprint.pformat(dict(proposal.device_map), sort_dicts=False, compact=True, width=100).splitlines()
    rest = len(text) - SHOWN
    more = [f"    and {rest} more lines: `device_map` of this error has them all"] if rest > 0 else []
    note = f" ({proposal.reason})" if proposal.reason else ""
    return [f"  this device_map keeps them together{note}:", *[f"    {line}" for line in text[:SHOWN]], *more]


def broken_text(model: str, broken: Sequence[Broken]) -> str:
    """Tell what a model of some class does not keep of what was promised, in lines."""
    lines = [f"{model} was not loaded as promised"]
    for one in broken[:SHOWN]:
        lines += [f"  {listed(one.names)}", f"    promised: {one.promised}", f"    found: {one.found}"]
        lines.append(f"    {one.help}")
    if len(broken) > SHOWN:
        lines.append(f"  and {len(broken) - SHOWN} more")
    return "\n".join(lines)


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
    path = _paths(model)
    return f"to tie them, {first}assign after loading, moving and wrapping: {path(target)} = {path(source)}"


def untying_advice(model: nn.Module, found: Kind, name: str, other: str) -> str:
    """Tell how to give one of two names that are one tensor memory of its own."""
    path = _paths(model)
    if found == "module":
        owner = path(_shared_module(model, name, other))
        return f"to part them, make it a module of its own: {owner} = copy.deepcopy({owner})"
    return f"to part them, give one its own memory: {path(name)} = torch.nn.Parameter({path(name)}.detach().clone())"


def _paths(model: nn.Module) -> Callable[[str], str]:
    """Return the function that writes a name of a model as Python reaches it."""
    from tiecheck.live.module_graph import ModuleGraph
    from tiecheck.live.wrappers import UserNames, route_of

    graph = ModuleGraph(model)
    user = UserNames(graph)
    route = route_of(graph, user)
    return lambda name: route.to(user.of(name))


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
