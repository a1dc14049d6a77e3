"""The table of the engines, a section at a time."""

from __future__ import annotations

from collections.abc import Mapping

from tiecheck.peers.loaders.engines import _sections


def section(engine: str, version: str) -> Mapping[str, str]:
    """Architecture (for mlx-lm model type) -> fields, of one engine in one version."""
    pairs = (line.split("\t") for line in _sections()[engine, version].splitlines())
    return {key: fields for fields, keys in pairs for key in keys.split(" ")}
