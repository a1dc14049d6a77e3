"""Where every tie group comes to lie under a plan, as a table of 80 columns.

A group's verdict and bytes stand above its members and their devices, in the same two columns: so it fits whatever the
names are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tiecheck.placement.asked.memory import DISK, NUMBERED, SINGLE
from tiecheck.records.placement import Device, Placed
from tiecheck.records.words import TIED
from tiecheck.render.reports import Style
from tiecheck.render.text import Line, clean
from tiecheck.wording import size

GROUPS_SHOWN = 4
"""Groups in the table of a plan without `-v`."""
NAMES_SHOWN = 4
"""Names of a group without `-v`."""
WIDE = 47
"""Columns of a member, or a verdict, beside which the next cell still stands; of a longer one it stands below."""


def verdict(placed: Placed) -> str:
    """Where a group comes to lie, in a word or two: `together`, `split: cuda:0 | cpu`, `not in the map`."""
    devices = sorted({device for device in placed.devices if device is not None}, key=rank)
    holes = placed.devices.count(None)
    if not devices:
        text = "not in the map"
    else:
        text = f"split: {' | '.join(devices)}" if len(devices) > 1 else "together"
        if holes:
            text += f", {holes} not in the map"
    return text if placed.seen else f"{text}, not seen by the planner"


def rank(device: Device) -> tuple[int, str, int]:
    """Accelerators first, in the order of their numbers, then memory, then files."""
    kind, _, number = device.partition(":")
    kinds = (*NUMBERED, *sorted(SINGLE, key=("mps", "hpu", "cpu", "meta").index), DISK)
    return (kinds.index(kind) if kind in kinds else len(kinds), kind, int(number) if number.isdecimal() else 0)


def badness(placed: Placed) -> int:
    """How much a group wants to be seen: split, not in the map, not seen, together."""
    devices = set(placed.devices)
    if len(devices - {None}) > 1:
        return 0
    return 1 if None in devices else 3 if placed.seen else 2


def table(groups: Sequence[Placed], style: Style) -> Iterator[Line]:
    """The groups, split ones first; each with its verdict and bytes, and its members with their devices."""
    ordered = sorted(groups, key=lambda placed: (badness(placed), placed.names))
    shown = ordered if style.verbose else ordered[:GROUPS_SHOWN]
    rows: list[tuple[str, str, str, str | None]] = [("group", "verdict, members", "bytes, devices", "dim")]
    for number, placed in enumerate(shown, 1):
        kind = f"{placed.kind}{'' if placed.kind in TIED else ', not tied'}{', declared' if placed.declared else ''}"
        takes = "?" if placed.nbytes is None else size(placed.nbytes)
        tone = ("bold red", "bold yellow", "bold yellow", None)[badness(placed)]
        word = verdict(placed)
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
        split = sum(badness(placed) == 0 for placed in rest)
        which = f", {split:,} of them split" if split else ""
        yield Line(f"and {len(rest):,} more group{'' if len(rest) == 1 else 's'}{which} (-v shows them)", 10, 2, "dim")


def _rows(rows: Sequence[tuple[str, str, str, str | None]]) -> Iterator[Line]:
    """Rows of a table, the columns as wide as their cells; a cell that is too wide has the next one under it."""
    cells = [(clean(first), clean(middle), last, tone) for first, middle, last, tone in rows]
    wide = min(WIDE, max(len(middle) for _, middle, last, _ in cells if last))
    for first, middle, last, tone in cells:
        head = f"{first:<7}{middle:<{wide}}"
        if last and len(middle) > wide:
            yield Line(head, 10, 0, tone, whole=True)
            yield Line(f"{'':<{7 + wide}}  {last}", 10, 0, tone, whole=True)
        else:
            yield Line(f"{head}  {last}", 10, 0, tone, whole=True)
