"""Code of a rule -> its module in this package, and the facts that it wants: `index.txt`, made by docs/generate.py."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName

INDEX: dict[str, tuple[str, tuple[FactName, ...]]] = {}

OTHER_SEVERITIES: dict[str, str] = {}
"""Code -> the other severities that its findings have in some of its cases."""

with open(os.path.join(os.path.dirname(__file__), "index.txt"), encoding="utf-8") as _table:
    for _line in _table:
        _code, _module, _needs, *_others = _line.rstrip("\n").split("\t")
        INDEX[_code] = _module, tuple(_needs.split(" "))  # type: ignore[arg-type]  # made off the facts' own names
        OTHER_SEVERITIES.update((_code, words) for words in _others)
