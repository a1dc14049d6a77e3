"""The summary of a fleet, for people: what there is, then by rule, class and loader, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from tiecheck.records.fleet import FleetComparison, FleetCount, FleetSummary
from tiecheck.render.lines import Line, page_width, write_lines
from tiecheck.render.reports import Style
from tiecheck.wording import counted, size

SHOWN = 12
"""Rows of a table that are shown; the JSON summary has all."""


def render(found: FleetSummary | FleetComparison, style: Style, stream: TextIO) -> None:
    """Write the summary as text, or two tables side by side."""
    lines = _lines(found, page_width(stream)) if isinstance(found, FleetSummary) else _compared(found)
    write_lines(list(lines), style, stream)


def _compared(found: FleetComparison) -> Iterator[Line]:
    for change in found.changed[:SHOWN]:
        codes = [f"+{code}" for code in change.appeared] + [f"-{code}" for code in change.ended]
        yield Line(f"{change.before} -> {change.after}  {change.target}  {' '.join(codes)}", 0, 4)
    if len(found.changed) > SHOWN:
        yield Line(f"and {len(found.changed) - SHOWN:,} more; -f json has all", 2)
    for title, targets in (("only in", found.new), ("no more in", found.gone)):
        if targets:
            more = f" and {len(targets) - SHOWN:,} more" if len(targets) > SHOWN else ""
            yield Line(f"{title} {found.after}: {', '.join(targets[:SHOWN])}{more}", 0, 4)
    broke = sum(change.after == "fail" != change.before for change in found.changed)
    ended = sum(change.before == "fail" != change.after for change in found.changed)
    other = len(found.changed) - broke - ended
    yield Line(
        f"{counted(found.same, 'model')} with the verdict of before; {broke:,} failing now, {ended:,} failing no more, "
        f"{other:,} changed otherwise, {len(found.new):,} new, {len(found.gone):,} gone",
        tone="bold",
    )


def _lines(found: FleetSummary, width: int) -> Iterator[Line]:
    yield from _table("rule", found.rules, width, "tiecheck rule CODE explains one")
    yield from _table("class", tuple(one for one in found.architectures if one.fail or one.error), width)
    yield from _table("hurt loader", found.loaders, width)
    if found.worst:
        yield Line("the worst models", 0, 0, "bold")
        for model in found.worst[:SHOWN]:
            yield Line(f"{model.target}  {', '.join(model.codes)}", 2, 4)
        yield Line("")
    if found.errors:
        yield Line("could not be judged", 0, 0, "bold")
        for target, why in found.errors[:SHOWN]:
            yield Line(why if target in why else f"{target}: {why}", 2, 4)
        yield Line("")
    status = found.status
    count = sum(status.values())
    words = (f"{status['pass']:,} pass", f"{status['fail']:,} fail", f"{status['unknown']:,} unknown")
    tone = "bold red" if status["fail"] else "bold magenta" if status["error"] else "bold green"
    line = f"{counted(count, 'model')}: {', '.join(words)}, {status['error']:,} could not be read"
    yield Line(line, 0, 2, tone)
    run = found.run
    sign = " =" if run.complete else ", of these"
    rest = f"{run.failed:,} not read + {run.skipped:,} kept from before"
    text = f"{run.listed:,} listed{sign} {run.judged:,} judged + {rest}"
    rate = f", {(run.judged + run.failed) / run.seconds:,.0f} a second" if run.seconds else ""
    yield Line(f"{text}; {run.seconds:,.1f} s{rate}", 0, 2)
    if found.requests:
        yield Line(f"{counted(found.requests, 'request')}, {size(found.bytes)}", 0, 2)


def _table(title: str, rows: tuple[FleetCount, ...], width: int, hint: str = "") -> Iterator[Line]:
    if not rows:
        return
    room = min(max(40, *(len(one.name) + 2 for one in rows[:SHOWN])), width - 28)
    yield Line(f"{title:<{room}} {'models':>9} {'fail':>9} {'error':>7}", 0, 0, "bold", None, whole=True)
    for one in rows[:SHOWN]:
        yield Line(
            f"{one.name:<{room - 2}.{room - 2}} {one.models:>9,} {one.fail:>9,} {one.error:>7,}", 2, 0, whole=True
        )
    if len(rows) > SHOWN:
        yield Line(f"and {len(rows) - SHOWN:,} more; -f json has all", 2)
    if hint:
        yield Line(hint, 2, 0, "dim")
    yield Line("")
