"""The other names under which a class's loader finds a parameter in a checkpoint."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Protocol

from tiecheck.tables.generate.build import is_older_line

DEPTH = 3
"""Reverse renamings that are chained at most; no mapping of transformers 5.23 needs more for a tied name."""

LIMIT = 64
"""Candidates that are tried for one name at most."""


class Speller(Protocol):
    """Finds the other names of a parameter."""

    def spellings(self, name: str) -> tuple[str, ...]:
        """Every other name that loading turns into this one, sorted."""


def model_speller(model: Any) -> Speller:
    """The speller for the loader of the installed transformers."""
    return OlderSpeller(model) if is_older_line() else NewerSpeller(model)


class OlderSpeller:
    """Finds spellings as the loader of 4.57 maps them (`PreTrainedModel._load_pretrained_model`).

    It renames by the class's `_checkpoint_conversion_mapping`, for the classes alone that its list `VLMS` names, and
    then adds or strips the base model's prefix for the whole file at once, by whether any name begins with it.
    """

    def __init__(self, model: Any) -> None:
        from transformers.modeling_utils import VLMS

        self.model = model
        bases = [base.__name__.lower() for base in type(model).__mro__[:-1]]
        listed = any(word in base for base in bases for word in VLMS)
        self.mapping: dict[str, str] = dict(model._checkpoint_conversion_mapping) if listed else {}
        self.prefix: str = model.base_model_prefix
        self.inside = bool(self.prefix) and hasattr(model, self.prefix)
        self.names = model.state_dict()

    def spellings(self, name: str) -> tuple[str, ...]:
        """Every other name that loading turns into this one, sorted."""
        seen = dict.fromkeys([name, *self._saved(name)])
        for spelled in [*seen, *([f"{self.prefix}.{name}"] if self.prefix else ())]:
            seen |= dict.fromkeys([spelled, spelled.removeprefix(f"{self.prefix}."), *self._saved(spelled)])
        return tuple(sorted(c for c in seen if c not in self.names and self.forwards(c) == {name}))

    def _saved(self, name: str) -> list[str]:
        """Names under which `save_pretrained` of 4.57 may write it: the reversed mapping, one line at a time."""
        found = [
            re.sub(replacement, re.sub(r"\(.*\)", "", pattern.lstrip("^")), name)
            for pattern, replacement in self.mapping.items()
        ]
        return [spelled for spelled in found if spelled != name]

    def forwards(self, stored: str) -> set[str]:
        """The parameters that a stored name can be loaded into, depending on what else the file holds."""
        begins = bool(self.prefix) and stored.startswith(self.prefix)
        ways: list[dict[str, bool]] = []
        if self.inside or not begins:
            ways.append({})
        if self.inside and not begins:
            ways.append({"loading_task_model_from_base_state_dict": True})
        if self.prefix and not self.inside:
            ways.append({"loading_base_model_from_task_state_dict": True})
        found: set[str] = set()
        for way in ways:
            with contextlib.suppress(ValueError):  # a name of the task's own in a file of the base model
                found |= set(self.model._get_key_renaming_mapping([stored], self.mapping or None, **way).values())
        return {name for name in found if name in self.names}


class NewerSpeller:
    """Finds spellings backwards, through the reversed renamings, and proves each forwards, as loading would."""

    def __init__(self, model: Any, *, legacy: bool = True) -> None:
        """Take a model; without what is `legacy` its files have only the names that they are saved under today."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(model, add_legacy=legacy)
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
