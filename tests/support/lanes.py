"""Two lanes of one list: a fair sample for every run, and the rest where `-m slow` asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], step: int = 2) -> list[Any]:
    """Return each value as a parameter, all but every `step`-th of them marked slow."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=[pytest.mark.slow] * (i % step > 0)) for i, row in enumerate(rows)]
