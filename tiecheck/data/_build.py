"""Builds a class on the meta device and reads its ties by object identity."""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple


class Found(NamedTuple):
    """One group of a built model."""

    source: str
    """The name that transformers ties the others to, or the first registered one."""
    kind: str
    """`module` where one registration makes every name through aliases, else `parameter`."""


Groups = dict[tuple[str, ...], Found]

PLAIN = re.compile(r"^[A-Za-z0-9_.]+$")


def build(model_class: Any, config_class: Any, data: dict[str, Any]) -> Any:
    """A model on the meta device, its config made from a dict as `from_pretrained` makes it."""
    import torch

    config = config_of(model_class, config_class, data)
    with torch.device("meta"):
        return model_class(config)


def config_of(model_class: Any, config_class: Any, data: dict[str, Any]) -> Any:
    """The config that a class is built with (`PreTrainedConfig.from_dict`, 5.23).

    A text model of a composite config gets the text config alone, as `_BaseAutoModelClass.from_pretrained` does.
    """
    config = config_class.from_dict(copy.deepcopy(data))
    text = (getattr(config, "sub_configs", None) or {}).get("text_config")
    wanted = getattr(model_class, "config_class", None)
    return config.get_text_config() if text is not None and wanted == text else config


def groups_of(model: Any) -> Groups:
    """Groups of parameter names that are one `Parameter`, keyed by their sorted names."""
    names: dict[int, list[str]] = {}
    owners: dict[int, set[tuple[int, str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{path}.{attribute}" if path else attribute)
                owners.setdefault(id(parameter), set()).add((id(module), attribute))
    targets = dict(getattr(model, "all_tied_weights_keys", None) or {})
    found: Groups = {}
    for key, members in names.items():
        if len(members) > 1:
            kind = "module" if len(owners[key]) == 1 else "parameter"
            found[tuple(sorted(members))] = Found(_source(members, targets), kind)
    return found


def _source(members: list[str], targets: dict[str, str]) -> str:
    inside = {t: s for t, s in targets.items() if t in members and s in members}
    roots = sorted(set(inside.values()) - inside.keys())
    return roots[0] if roots else members[0]


def tied_in(names: tuple[str, ...], groups: Groups) -> bool:
    """Whether all of some names are one parameter in a built model."""
    wanted = set(names)
    return any(wanted <= set(members) for members in groups)


def declares(model: Any) -> tuple[bool, bool]:
    """Whether any submodel declares ties (`_tied_weights_keys`, 5.23), and whether by a pattern."""
    declared = [getattr(m, "_tied_weights_keys", None) or {} for m in model.modules()]
    words = [w for d in declared for w in (d.items() if isinstance(d, dict) else ((k, k) for k in d))]
    return bool(words), any(not PLAIN.match(w) for pair in words for w in pair)
