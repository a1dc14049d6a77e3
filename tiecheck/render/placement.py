"""A placement for people: each plan with its memory and what its tool says, the groups under it, a map that works."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from tiecheck.errors import escaped
from tiecheck.placement.asked.fit import memory_devices
from tiecheck.placement.asked.memory import DISK, NUMBERED, SINGLE
from tiecheck.placement.load_outcomes import is_sound
from tiecheck.records.placement import Crash, Device, Placed, Placement, Plan, Proposal, Seeds
from tiecheck.records.words import TIED
from tiecheck.render.lines import NAMES_SHOWN, Line, cut_text, first_names
from tiecheck.render.reports import Style
from tiecheck.wording import counted, size

_T = TypeVar("_T")

GROUPS_SHOWN = 4
"""Groups in the table of a plan without `-v`."""
WIDE = 47
"""Columns of a member, or a verdict, beside which the next cell still stands; of a longer one it stands below."""
BOUNDLESS = 2**60
"""Bytes from which on a memory is no limit."""


def placement_lines(placement: Placement, style: Style) -> Iterator[Line]:
    """Yield the lines of a placement, to stand under those of its target."""
    memory = _memory(placement.memory or {}, ())
    has = f"; memory: {', '.join(f'{device} {size(room)}' for device, room in memory)}" if memory else ""
    what = "a given map" if placement.strategy == "map" else placement.strategy
    yield Line(f"placement: {what}, by {placement.origin}{has}", 4, 2, "bold", 9)
    before: Plan | None = None
    for plan in placement.plans:
        yield from _plan(plan, before, style)
        before = before or plan
    if placement.warns:
        here = f" (installed: {placement.installed})" if placement.installed else ""
        yield Line(f'would log "The model weights are not tied": accelerate {first_names(placement.warns)}{here}', 8, 2)
    if placement.proposal is not None and (style.verbose or _wanted(placement)):
        yield from _proposal(placement.proposal)


def _wanted(placement: Placement) -> bool:
    """Return whether the plan that will be followed is one to replace; another tool has its finding."""
    first = placement.plans[0]
    unstable = first.seeds is not None and (first.seeds.maps > 1 or first.seeds.crashes > 0)
    return unstable or bool(first.moved) or not is_sound(placement)


def _plan(plan: Plan, before: Plan | None, style: Style) -> Iterator[Line]:
    """One plan: what it is, what it comes to, and the groups under it."""
    title = "the given map" if plan.tool == "given" else f"{plan.tool} {plan.version}, {plan.strategy}".strip()
    split = sum(_badness(placed) == 0 for placed in plan.placed)
    total = counted(len(plan.placed), "group")
    if plan.crash is not None:
        word, tone = "raises", "bold red"
    elif split:
        word, tone = f"splits {split:,} of {total}", "bold red"
    elif not plan.placed:
        word, tone = "there is no tie group that it could split", "bold"
    else:
        word, tone = f"keeps {total} together", "bold green"
        if any(_badness(placed) == 1 for placed in plan.placed):
            word, tone = f"splits none of {total}, and leaves names out", "bold yellow"
    yield Line(f"{title}: {word}", 8, 2, tone, len(title))
    yield from _told(plan, style)
    same = (
        before is not None and not plan.crash and (plan.device_map, plan.placed) == (before.device_map, before.placed)
    )
    if same and before is not None:
        yield Line(f"the same map as that of {before.tool}", 10, 2, "dim")
    elif plan.placed:
        yield from _table(plan.placed, style)


def _told(plan: Plan, style: Style) -> Iterator[Line]:
    """Yield what a plan comes to, and what its tool has to say."""
    if plan.crash is not None:
        yield Line(_crash(plan.crash), 10, 2)
    memory = dict(_memory(plan.memory, plan.used))
    figures = []
    for device in sorted({*memory, *plan.used}, key=_rank):
        room = memory.get(device)
        of = "" if room is None or room >= BOUNDLESS else f" of {size(room)}"
        counted = plan.counted.get(device, plan.used.get(device, 0))
        believes = f" (it counts {size(counted)})" if counted != plan.used.get(device, 0) else ""
        figures.append(f"{device} {size(plan.used.get(device, 0))}{of}{believes}")
    if figures and plan.crash is None:
        yield Line(f"memory: {', '.join(figures)}", 10, 2, "dim")
    for text in _some(plan.remarks, style):
        yield Line(cut_text(text, style), 10, 2, "yellow")
    for text in _some(plan.logged, style):
        yield Line(f"logs: {cut_text(text, style)}", 10, 2, "yellow", 5)
    for double in _some(plan.doubles, style):
        yield Line(
            f"counts {size(double.counted)} for {size(double.real)} where {double.module or 'the model'} goes to "
            f"{double.device}, because of {first_names(double.names)}",
            10,
            2,
        )
    if plan.moved:
        moved = [f"{module} on {here}, not {there}" for module, (here, there) in plan.moved.items()]
        yield Line(f"for that alone it puts {first_names(moved)}", 10, 2)
    if plan.seeds is not None:
        yield Line(_seeds(plan.seeds), 10, 2)


def _crash(crash: Crash) -> str:
    at = f" at {crash.module}" if crash.module else ""
    names = f" ({first_names(crash.names)})" if crash.names else ""
    return f"{' '.join(crash.error.split())}{at}{names}"


def _seeds(seeds: Seeds) -> str:
    maps = "one map" if seeds.maps == 1 else f"{seeds.maps} different maps"
    counts = ((seeds.splits, "splitting a group"), (seeds.crashes, "raising"))
    more = [f"{n} {word}" for n, word in counts if n]
    moving = f"; what moves: {first_names(seeds.moving)}" if seeds.moving else ""
    return f"under {seeds.tried} hash seeds: {', '.join([maps, *more])}{moving}"


def _proposal(proposal: Proposal) -> Iterator[Line]:
    """Yield the map that works, as Python to be pasted from the first column on; or why there is none."""
    if not proposal.device_map:
        lacks = f" ({size(proposal.lacks)} missing)" if proposal.lacks else ""
        yield Line(f"no map keeps every group together: {proposal.reason or 'none fits'}{lacks}", 8, 2, "bold red", 6)
        return
    used = ", ".join(f"{device} {size(proposal.used[device])}" for device in sorted(proposal.used, key=_rank))
    limit = f" ({proposal.reason})" if proposal.reason else ""
    yield Line(f"a map that keeps every group together: {used}{limit}", 8, 2, "bold green", 37)
    yield from (Line(text, whole=True) for text in python_map(proposal.device_map))


def python_map(device_map: Mapping[str, int | str]) -> list[str]:
    """Return a device map as lines of Python that assign it to `device_map`; a name may hold anything."""
    entries = [f"    {_literal(name)}: {_literal(device)}," for name, device in device_map.items()]
    return ["device_map = {", *entries, "}"]


def _literal(value: int | str) -> str:
    """Return a number or a text as Python writes it, without a character that does not print."""
    return escaped(json.dumps(value, ensure_ascii=False))


def _memory(memory: Mapping[int | str, int], used: Mapping[Device, int] | tuple[()]) -> list[tuple[Device, int]]:
    """Return a memory by devices in one way of writing them."""
    return list(zip(memory_devices(memory, used), memory.values(), strict=True))


def _some(items: Sequence[_T], style: Style) -> Sequence[_T]:
    return items if style.verbose else items[:NAMES_SHOWN]


def group_verdict(placed: Placed) -> str:
    """Where a group comes to lie, in a word or two: `together`, `split: cuda:0 | cpu`, `not in the map`."""
    devices = sorted({device for device in placed.devices if device is not None}, key=_rank)
    holes = placed.devices.count(None)
    if not devices:
        text = "not in the map"
    else:
        text = f"split: {' | '.join(devices)}" if len(devices) > 1 else "together"
        if holes:
            text += f", {holes} not in the map"
    return text if placed.seen else f"{text}, not seen by the planner"


def _rank(device: Device) -> tuple[int, str, int]:
    """Accelerators first, in the order of their numbers, then memory, then files."""
    kind, _, number = device.partition(":")
    kinds = (*NUMBERED, *sorted(SINGLE, key=("mps", "hpu", "cpu", "meta").index), DISK)
    return (kinds.index(kind) if kind in kinds else len(kinds), kind, int(number) if number.isdecimal() else 0)


def _badness(placed: Placed) -> int:
    """Return how much a group wants to be seen: split, not in the map, not seen, together."""
    devices = set(placed.devices)
    if len(devices - {None}) > 1:
        return 0
    return 1 if None in devices else 3 if placed.seen else 2


def _table(groups: Sequence[Placed], style: Style) -> Iterator[Line]:
    """Write the groups, split ones first; each with its verdict and bytes, and its members with their devices.

    Verdict and bytes stand above the members and their devices, in the same two columns: so it fits whatever the names
    are.
    """
    ordered = sorted(groups, key=lambda placed: (_badness(placed), placed.names))
    shown = ordered if style.verbose else ordered[:GROUPS_SHOWN]
    rows: list[tuple[str, str, str, str | None]] = [("group", "verdict, members", "bytes, devices", "dim")]
    for number, placed in enumerate(shown, 1):
        kind = f"{placed.kind}{'' if placed.kind in TIED else ', not tied'}{', declared' if placed.declared else ''}"
        takes = "?" if placed.nbytes is None else size(placed.nbytes)
        tone = ("bold red", "bold yellow", "bold yellow", None)[_badness(placed)]
        word = group_verdict(placed)
        if len(word) + len(kind) + 3 <= WIDE:
            rows.append((str(number), f"{word} ({kind})", takes, tone))
        else:
            rows += [(str(number), word, takes, tone), ("", f"({kind})", "", tone)]
        pairs = list(zip(placed.names, placed.devices, strict=True))
        listed = pairs if style.verbose else pairs[:NAMES_SHOWN]
        rows += [("", f"  {name}", device or "not in the map", None) for name, device in listed]
        if len(pairs) > len(listed):
            rows.append(("", f"  and {len(pairs) - len(listed):,} more names (-v shows them)", "", None))
    yield from _rows(rows)
    rest = ordered[len(shown) :]
    if rest:
        split = sum(_badness(placed) == 0 for placed in rest)
        which = f", {split:,} of them split" if split else ""
        yield Line(f"and {counted(len(rest), 'more group')}{which} (-v shows them)", 10, 2, "dim")


def _rows(rows: Sequence[tuple[str, str, str, str | None]]) -> Iterator[Line]:
    """Rows of a table, the columns as wide as their cells; a cell that is too wide has the next one under it."""
    cells = [(escaped(first), escaped(middle), last, tone) for first, middle, last, tone in rows]
    wide = min(WIDE, max(len(middle) for _, middle, last, _ in cells if last))
    for first, middle, last, tone in cells:
        head = f"{first:<7}{middle:<{wide}}"
        if last and len(middle) > wide:
            yield Line(head, 10, 0, tone, whole=True)
            yield Line(f"{'':<{7 + wide}}  {last}", 10, 0, tone, whole=True)
        else:
            yield Line(f"{head}  {last}", 10, 9, tone)
