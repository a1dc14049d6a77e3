"""Around the code of a user: the gate before a load, the guard over a block, and what operations do to ties.

Hands its results on as records; may import the engine and all below it. The package itself can be called:
`tiecheck.guard(model)` is `tie_guard.guard(model)`, since an import of any module in here binds `tiecheck.guard`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, called as the function of its name."""

    def __call__(self, *models: Any, **options: Any) -> Any:
        """Watch the ties of models; see `tie_guard.guard`."""
        from tiecheck.guard.tie_guard import guard

        return guard(*models, **options)


sys.modules[__name__].__class__ = _Callable
