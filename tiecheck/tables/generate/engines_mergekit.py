"""Head and embedding in mergekit's architecture definitions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def mergekit_facts(root: Path) -> Mapping[str, str]:
    """Architecture -> the fields of its line: weights outside of the layers, each with how it is looked up.

    A field is `name`, followed by `?` where the weight is optional, and by `=other` for each alias or tied name.
    Definitions with several modules are `unknown`: their names are put together at run time.
    """
    found: dict[str, set[str]] = {}
    for path in sorted((root / "mergekit/_data/architectures").glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        fields = _fields(data)
        for name in data.get("architectures", ()):
            found.setdefault(name, set()).add(fields)
    return {
        name: fields.pop() if len(fields) == 1 else "unknown:several definitions, chosen by model type"
        for name, fields in found.items()
    }


def _fields(data: Mapping[str, Any]) -> str:
    if "modules" in data:
        return "unknown:a definition of several modules"
    weights = [*data.get("pre_weights", ()), *data.get("post_weights", ())]
    return " ".join(_field(w) for w in weights if w.get("vocabulary_axis") is not None or w.get("is_embed"))


def _field(weight: Mapping[str, Any]) -> str:
    also = [*(weight.get("aliases") or ()), *(weight.get("tied_names") or ())]
    return "=".join((weight["name"] + ("?" if weight.get("optional") else ""), *also))
