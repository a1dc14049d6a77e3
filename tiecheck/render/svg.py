"""The pictures of a report as one SVG file that stands by itself, those of each target below its name."""

from __future__ import annotations

from typing import TextIO

from tiecheck.records.report import Report
from tiecheck.render.drawing import CHARACTER, COLOURS, label
from tiecheck.render.pictures import target_pictures
from tiecheck.render.reports import Style
from tiecheck.render.text import common_folder, summary_text, ties_text

ROOT = "svg{color:#1b1b1b;background:#fff}@media(prefers-color-scheme:dark){svg{color:#e8e8e8;background:#141414}}"
MARKS = "= tied, | kept apart, ! lost, X crash, ? not known"
"""The marks of loaders, and their meaning."""

GAP = 14
"""Pixels between pictures."""


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the picture: the counts, then each target with what can be drawn of it."""
    summary, folder = summary_text(report), common_folder(report)
    parts = [label(GAP, 22, summary), label(GAP, 44, MARKS + (f"; in {folder}" if folder else ""))]
    top, width = 56, CHARACTER * len(summary) + 2 * GAP
    for target in report.targets:
        ties = ties_text(target) if target.status == "pass" else None
        name = "  ".join(filter(None, (target.status, target.target[len(folder) :], target.architecture, ties)))
        parts.append(label(GAP, top + 16, name))
        width, top = max(width, CHARACTER * len(name) + 2 * GAP), top + 26
        for picture in target_pictures(target):
            parts.append(picture.element(top))
            width, top = max(width, picture.width), top + picture.height + GAP
    size = f'width="{int(width)}" height="{top}" viewBox="0 0 {int(width)} {top}"'
    stream.write(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>tiecheck</title><style>{COLOURS}{ROOT}</style>'
        f"{''.join(parts)}</svg>\n"
    )
