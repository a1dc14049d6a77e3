"""One page that stands by itself: no script from elsewhere, no network, light and dark, usable with the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TextIO

from tiecheck.errors import escaped
from tiecheck.records.report import Finding, Report, TargetReport
from tiecheck.render.drawing import COLOURS
from tiecheck.render.findings import fix_texts, note_text, place_text, whom_text
from tiecheck.render.pictures import target_pictures
from tiecheck.render.reports import Style
from tiecheck.render.text import common_folder, summary_text, ties_text

SHEET = (
    COLOURS
    + """
:root{--line:#8884;--warned:#9a5b00}
@media(prefers-color-scheme:dark){:root{--warned:#e0a84a}}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.92em;overflow-wrap:anywhere}pre{overflow-x:auto}
details{border-top:1px solid var(--line);padding:.4rem 0}summary{cursor:pointer;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:4rem minmax(0,1fr);margin:.3rem 0 1rem}dd{margin:0;overflow-wrap:anywhere}
.fail,.error{color:var(--lost)}.pass{color:var(--tied)}.warning{color:var(--warned)}
b{display:inline-block;min-width:5rem}.scroll{overflow-x:auto}dt{opacity:.7}
"""
)

LEGEND = (
    '<span class="tied">= tied</span>, <span class="apart">| kept apart</span>, '
    '<span class="lost">! lost, X crash</span>, ? not known'
)


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the page: the counts, then each target to be opened, those that fail opened already."""
    stream.write(f"{page_head('tiecheck')}<p>{html_text(summary_text(report))}</p><p>{LEGEND}</p>\n")
    folder = common_folder(report)
    if folder:
        stream.write(f"<p>In <code>{html_text(folder)}</code>:</p>\n")
    many = sum(target.status == "fail" for target in report.targets) > 10
    for target in report.targets:
        stream.writelines(_target(target, len(folder), opened=not many and target.status in ("fail", "error")))
    stream.write("</body></html>\n")


def _target(target: TargetReport, known: int, *, opened: bool) -> Iterator[str]:
    model = f" {html_text(target.architecture)}" if target.architecture else ""
    yield f'<details{" open" if opened else ""}><summary><b class="{target.status}">{target.status}</b> '
    ties = f", {html_text(ties_text(target))}" if target.status == "pass" else ""
    yield f"<code>{html_text(target.target[known:])}</code>{model}{ties}</summary>\n"
    for text in (target.reason, *(error.message for error in target.errors)):
        if text:
            yield f"<p>{html_text(text)}</p>\n"
    for picture in target_pictures(target):
        yield f'<div class="scroll" role="group" aria-label="picture" tabindex="0">{picture.element()}</div>\n'
    for finding in target.findings:
        yield from _finding(finding, target)
    for skip in target.skips:
        yield f"<p>skipped: {html_text(skip.reason)} ({skip.code})</p>\n"
    yield "</details>\n"


def _finding(finding: Finding, target: TargetReport) -> Iterator[str]:
    off = f" (suppressed: {html_text(finding.suppressed)})" if finding.suppressed else ""
    level = "" if finding.suppressed else f' class="{finding.severity}"'
    yield f"<section><p><strong{level}>{finding.code} {finding.severity}</strong>{off} "
    yield f"{html_text(finding.message)}</p><dl>"
    whom = whom_text(finding, target)
    if whom:
        yield f"<dt>hurts</dt><dd>{html_text(whom)}</dd>"
    for place in finding.locations:
        yield f"<dt>at</dt><dd><code>{html_text(place_text(place))}</code> {html_text(note_text(place, finding))}</dd>"
    fix = "<br>".join(map(_with_code, fix_texts(finding)))
    yield f"<dt>fix</dt><dd>{fix}</dd></dl></section>\n"


def _with_code(text: str) -> str:
    """Return a sentence with its code in blocks."""
    return "".join(
        f"<pre>{part.replace('; ', chr(10))}</pre>" if i % 2 else part.removeprefix("." if i else "")
        for i, part in enumerate(html_text(text).split("`"))
    )


def page_head(title: str, styles: str = "") -> str:
    """Return the beginning of a page up to its heading, with further styles."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{SHEET}{styles}</style></head><body>\n'
        f"<h1>{title}</h1>"
    )


def html_text(text: str) -> str:
    """Return a text that is no markup."""
    return escape(escaped(text))
