"""PEFT (0.21.0): the modules that it takes for tied with the input embedding (`peft/utils/other.py`).

It goes by the config (`tie_word_embeddings is False` ends it), by what the classes declare, and by identity with the
parameters of `get_input_embeddings()` for the source of a declared pair. Whether the target is tied is not looked at.
"""

from __future__ import annotations

from typing import Any

from tiecheck.peers.views.tool_functions import ToolAnswer, ToolFunction, WalkedModule, ordered_groups


def _unwrapped(model: Any) -> Any:
    """Return the model below PEFT's own wrappers."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.model if hasattr(model, "tuner_layer_cls") else model


def _asks(sight: WalkedModule) -> bool:
    """Return True if a model declares anything: PEFT sees no tie of any other, and does not look for one."""
    return hasattr(_unwrapped(sight.module), "_tied_weights_keys")


def _tied(sight: WalkedModule) -> ToolAnswer:
    """See the modules that PEFT names, which is all that it tells, as one group with the embedding."""
    sight.runnable()
    from peft.utils.other import _get_module_names_tied_with_embedding

    modules = _get_module_names_tied_with_embedding(sight.module)
    if not modules:
        return ToolAnswer()
    model = _unwrapped(sight.module)
    ids = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    held = [name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in ids]
    return ToolAnswer(ordered_groups([{*held, *(f"{module}.weight" for module in modules)}]))


PEERS = (ToolFunction("peft", "_get_module_names_tied_with_embedding", "0.21", run=_tied, asks=_asks),)
