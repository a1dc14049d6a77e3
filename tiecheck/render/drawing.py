"""Pictures as SVG: what all of them share. Each is text from records; colour never says what no mark or title says."""

from __future__ import annotations

from html import escape

from tiecheck.errors import escaped
from tiecheck.records.record import Record

COLOURS = """
:root,svg{color-scheme:light dark;--lost:#c62828;--tied:#2e7d32;--apart:#1565c0;--unknown:#757575}
@media(prefers-color-scheme:dark){:root,svg{--lost:#ef7070;--tied:#6fbf73;--apart:#7fb2ee;--unknown:#9e9e9e}}
.lost{color:var(--lost)}.tied{color:var(--tied)}.apart{color:var(--apart)}.unknown{color:var(--unknown)}
svg text{font:12px ui-monospace,monospace;fill:currentColor}svg rect{fill:currentColor;opacity:.25}
svg path{fill:none;stroke:currentColor;stroke-width:1.5}
"""
"""Colours of outcomes, and what text, boxes and lines look like; of the page too."""

CHARACTER = 7.4
"""Width of a character, in pixels of 12px monospace."""


class Picture(Record):
    """One picture."""

    title: str
    """Words on what it shows, for who does not see it and for the pointer."""
    width: int
    height: int
    """Its size in pixels."""
    parts: str
    """The elements."""

    def element(self, top: int | None = None) -> str:
        """Return it as an `svg` element, in a page or so far down in another picture."""
        place = "" if top is None else f' x="0" y="{top}"'
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        return f'<svg role="img"{place} {size}><title>{clean(self.title)}</title>{self.parts}</svg>'


def clean(text: str) -> str:
    """Return a text that is no markup and no command of a terminal."""
    return escape(escaped(text))


def label(x: float, y: float, text: str, anchor: str = "start") -> str:
    """Return a line of text at a place."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{clean(text)}</text>'


def box(x: float, y: float, width: float, height: float, title: str, style: str = "") -> str:  # noqa: PLR0913, PLR0917
    """Return a box that tells its title to the pointer."""
    return (
        f'<g class="{style}"><title>{clean(title)}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2"/></g>'
    )


def shortened(text: str, most: int) -> str:
    """Return a dotted name, its beginning left out where it is longer than so many characters."""
    return text if len(text) <= most else f"...{text[3 - most :].lstrip('.')}"
