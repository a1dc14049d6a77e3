"""The summary of a fleet as one page that stands by itself: by rule, class and loader, with bars of what fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO

from tiecheck.records.fleet import FleetCount, FleetSummary
from tiecheck.render.html import html_text, page_head
from tiecheck.render.reports import Style
from tiecheck.rules.registry import rule_of
from tiecheck.wording import counted

SHOWN = 200
"""Rows of a table of the page."""

TABLES = (
    "table{border-collapse:collapse;width:100%}td,th{padding:.15rem .6rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left;width:60%;overflow-wrap:anywhere}meter{width:10rem}"
)


def render(found: FleetSummary, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the page."""
    status = found.status
    run = found.run
    counts = ", ".join(f'<span class="{word}">{count:,} {word}</span>' for word, count in status.items())
    stream.write(
        f"{page_head('tiecheck fleet', TABLES)}<p>{counted(sum(status.values()), 'model')}: {counts}</p>"
        f"<p>{run.listed:,} listed, {run.judged:,} judged, {run.failed:,} not read, {run.skipped:,} kept from before"
        f"{'' if run.complete else '; the run is not complete'}</p>\n"
    )
    stream.writelines(_table("Rules", found.rules, told=True))
    stream.writelines(_table("Classes", found.architectures))
    stream.writelines(_table("Loaders that are hurt", found.loaders))
    stream.writelines(_models("The worst models", ((one.target, ", ".join(one.codes)) for one in found.worst)))
    stream.writelines(_models("Could not be judged", found.errors))
    stream.write("</body></html>\n")


def _table(title: str, rows: tuple[FleetCount, ...], *, told: bool = False) -> Iterator[str]:
    if not rows:
        return
    heads = "".join(f"<th>{head}</th>" for head in ("", "models", "fail", "error", ""))
    yield f'<h2>{title}</h2><div class="scroll" tabindex="0"><table><tr>{heads}</tr>\n'
    for one in rows[:SHOWN]:
        text = f" {html_text(rule_of(one.name).summary.replace('`', ''))}" if told else ""
        size = f'max="{one.models}" value="{one.fail}" low="0" high="0" optimum="0"'  # red from the first on
        bar = f'<meter {size} title="{one.fail / one.models:.0%} fail"></meter>'
        yield f"<tr><td><code>{html_text(one.name)}</code>{text}</td><td>{one.models:,}</td><td>{one.fail:,}</td>"
        yield f"<td>{one.error:,}</td><td>{bar}</td></tr>\n"
    yield "</table></div>\n"
    if len(rows) > SHOWN:
        yield f"<p>and {len(rows) - SHOWN:,} more; the JSON summary has all</p>\n"


def _models(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for i, (target, text) in enumerate(rows):
        place = target.removeprefix("hf://")
        link = f"https://huggingface.co/{place}" if target.startswith("hf://") else target if "://" in target else ""
        name = f"<code>{html_text(target)}</code>"
        shown = f'<a href="{html_text(link)}">{name}</a>' if link.startswith("https://") else name
        yield f"{'' if i else f'<h2>{title}</h2>'}<p>{shown} {html_text(text)}</p>\n"
