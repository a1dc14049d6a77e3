"""The matrix of `tiecheck survive` as Markdown."""

from tiecheck.render.survival import render_markdown as render

__all__ = ["render"]
