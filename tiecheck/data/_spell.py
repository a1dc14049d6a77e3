"""The other names under which a class's loader finds a parameter in a checkpoint."""

from __future__ import annotations

import re
from typing import Any

DEPTH = 3
"""Reverse renamings that are chained at most; no mapping of transformers 5.23 needs more for a tied name."""

LIMIT = 64
"""Candidates that are tried for one name at most."""


class Speller:
    """Finds spellings backwards, through the reversed renamings, and proves each forwards, as loading would."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(model)
        self.renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        self.converters = [t for t in transforms if isinstance(t, WeightConverter)]
        self.prefix = model.base_model_prefix
        self.names = model.state_dict()
        self.reversed = [r for r in map(_reversed, self.renamings[::-1]) if r is not None]

    def spellings(self, name: str) -> tuple[str, ...]:
        """Every other name that loading turns into this one, sorted."""
        seen = {name}
        frontier = [name]
        for _ in range(DEPTH):
            found = [c for spelled in frontier for c in self._backwards(spelled)]
            frontier = [c for c in dict.fromkeys(found) if c not in seen][: LIMIT - len(seen)]
            seen.update(frontier)
        return tuple(sorted(c for c in seen - {name} if c not in self.names and self.forwards(c) == name))

    def forwards(self, stored: str) -> str | None:
        """The parameter a stored name is loaded into (`rename_source_key`, 5.23); None where a converter takes it."""
        from transformers.core_model_loading import rename_source_key

        _reset(self.renamings)
        name, converter = rename_source_key(stored, self.renamings, self.converters, self.prefix, self.names)
        return name if converter is None else None

    def _backwards(self, name: str) -> list[str]:
        from transformers.core_model_loading import apply_renamings

        _reset(self.reversed)
        found = [apply_renamings(name, self.reversed)]
        for transform in self.reversed:
            _reset(self.reversed)
            found.append(transform.rename_source_key(name)[0])
        if self.prefix:
            found.append(f"{self.prefix}.{name}")
            found.append(re.sub(f"^{re.escape(self.prefix)}\\.", "", name))
        return [candidate for candidate in found if candidate and candidate != name]


def _reversed(transform: Any) -> Any:
    """A renaming turned round, or None where the library cannot turn it (a pattern that forgets what it matched)."""
    try:
        return transform.reverse_transform()
    except Exception:  # noqa: BLE001 - ValueError, re.error, IndexError by the pattern
        return None


def _reset(transforms: list[Any]) -> None:
    """Forgets the state of `GroupWeightRename` (5.23), which remembers whether its first name was seen."""
    for transform in transforms:
        if hasattr(transform, "_active"):
            transform._active = False
