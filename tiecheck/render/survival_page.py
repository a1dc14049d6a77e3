"""The matrix of `tiecheck survive` as one page that stands by itself."""

from __future__ import annotations

from typing import TextIO

from tiecheck.records.life import SurvivalMatrix
from tiecheck.render.html import html_text, page_head
from tiecheck.render.reports import Style
from tiecheck.render.survival import LEGEND, row_notes, row_words

SHEET = "table{border-collapse:collapse}th,td{border:1px solid var(--line);padding:.15rem .6rem;text-align:left}"


def render(found: SurvivalMatrix, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the matrix as a table: a row an operation with its code, a column a tie."""
    head = ["operation", *(" = ".join(tie.names) for tie in found.ties), "notes"]
    cells = "".join(f'<th scope="col">{html_text(word)}</th>' for word in head)
    stream.write(f"{page_head('tiecheck survive', SHEET)}<p><code>{html_text(found.target)}</code></p>\n")
    stream.write(f'<div class="scroll" tabindex="0"><table><tr>{cells}</tr>\n')
    for row in found.operations:
        mark = " (x)" if row.by_nature else ""
        stream.write(f'<tr><th scope="row" title="{html_text(row.words)}">{html_text(row.operation + mark)}</th>')
        words = row_words(row, len(found.ties))
        for word in words + [""] * (len(found.ties) - len(words)):
            tone = "tied" if word.startswith("kept") else "" if row.by_nature or row.status == "skipped" else "lost"
            stream.write(f'<td class="{tone}">{html_text(word)}</td>')
        stream.write(f"<td>{html_text('; '.join(row_notes(row)))}</td></tr>\n")
    stream.write(f"</table></div><p>{html_text(LEGEND)}</p></body></html>\n")
