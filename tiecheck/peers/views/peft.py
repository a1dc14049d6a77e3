"""PEFT (0.21.0): the modules that it takes for tied with the input embedding (`peft/utils/other.py`).

It goes by the config (`tie_word_embeddings is False` ends it), by what the classes declare, and by identity with the
parameters of `get_input_embeddings()` for the source of a declared pair. Whether the target is tied is not looked at.
"""

from __future__ import annotations

import re
from typing import Any

from tiecheck.peers.views import module_walks
from tiecheck.peers.views.tool_functions import ToolAnswer, ToolFunction, WalkedModule, groups_from_pairs

_BASE_LAYER = re.compile(r"[^.]+\.base_layer\.")


def _unwrapped(model: Any) -> Any:
    """Return the model below PEFT's own wrappers."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.model if hasattr(model, "tuner_layer_cls") else model


def _asks(sight: WalkedModule) -> bool:
    """Return True if a model declares anything: PEFT sees no tie of any other, and does not look for one."""
    return hasattr(_unwrapped(sight.module), "_tied_weights_keys")


def _pairs(sight: WalkedModule) -> list[tuple[str, str]]:
    """Return each name that is taken for tied, with the embedding's."""
    model = _unwrapped(sight.module)
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", None) is False:
        return []
    keys = model._tied_weights_keys
    if isinstance(keys, dict):
        return _mapped(model)
    names = _embedding_names(model) if keys else []
    return [(key, names[0] if names else key) for key in keys or ()]


def _embedding_names(model: Any) -> list[str]:
    ids = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    return [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in ids]


def _mapped(model: Any) -> list[tuple[str, str]]:
    if not hasattr(model, "get_input_embeddings"):
        raise ValueError(
            "The supplied model implements `_tied_weights_keys` as a dict but doesn't implement "
            "'get_input_embeddings' so we can't determine which weights are tied to embeddings."
        )
    declared: dict[str, str] = {}
    for prefix, module in model.named_modules():
        held = getattr(module, "_tied_weights_keys", None)
        if held:
            before = f"{prefix}." if prefix else ""
            declared |= {before + target: before + source for target, source in held.items()}
    candidates = _embedding_names(model)
    # Under a PEFT wrapper the old names lead to new ones.
    wrapped = {_BASE_LAYER.sub("", name): name for name in candidates}
    wrapped |= {name.replace("base_layer.", ""): name for name in candidates}
    known = set(candidates)
    return [
        (wrapped.get(target, target), wrapped.get(source, source))
        for target, source in declared.items()
        if wrapped.get(source, source) in known
    ]


def _tied(sight: WalkedModule) -> ToolAnswer:
    module_walks.refuse_endless_walk(sight.extent())
    return ToolAnswer(groups_from_pairs(_pairs(sight)))


def _run(sight: WalkedModule) -> ToolAnswer:
    """Return the pairs whose module PEFT names: it names no more than that."""
    sight.runnable()
    from peft.utils.other import _get_module_names_tied_with_embedding

    modules = set(_get_module_names_tied_with_embedding(sight.module))
    known = _pairs(sight)
    # A module we have no pair for stands alone, and shows.
    strange = modules - {target.rpartition(".")[0] for target, _ in known}
    pairs = [pair for pair in known if pair[0].rpartition(".")[0] in modules]
    return ToolAnswer((*groups_from_pairs(pairs), *((module,) for module in sorted(strange))))


PEERS = (ToolFunction("peft", "_get_module_names_tied_with_embedding", "0.21", _tied, _run, asks=_asks),)
