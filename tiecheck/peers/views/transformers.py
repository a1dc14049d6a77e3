"""transformers (5.23.0): what a model claims is tied, and what `save_pretrained` would leave out or refuse.

`all_tied_weights_keys` is written once, from class and config, and kept whatever becomes of the model: a claim, never
evidence. What is saved goes by memory (on meta by object) and by the patterns of `_tied_weights_keys`, whatever the
config's flag says; whether the values can then be written is not looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from tiecheck.patterns import takes_forever
from tiecheck.peers.views.module_walks import Endless, names_by_key
from tiecheck.peers.views.tool_functions import (
    NotRun,
    ToolAnswer,
    ToolFunction,
    WalkedModule,
    groups_from_pairs,
    ordered_groups,
)


def _models(sight: WalkedModule) -> Iterator[tuple[str, Any]]:
    """Yield the outermost `PreTrainedModel`s, with the prefix of their first path."""
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    if not isinstance(base, type):
        return
    stack: list[tuple[str, nn.Module]] = [("", sight.module)]
    seen = {id(sight.module)}
    while stack:
        prefix, module = stack.pop()
        if isinstance(module, base):
            yield prefix, module
            continue
        below = []
        for label, child in module._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                below.append((f"{prefix}{label}.", child))
        stack += reversed(below)


def _claims(sight: WalkedModule) -> bool:
    """Return True if there is a model with the attribute: transformers 4 has none."""
    return any(hasattr(model, "all_tied_weights_keys") for _, model in _models(sight))


def _claimed(sight: WalkedModule) -> ToolAnswer:
    pairs = []
    for prefix, model in _models(sight):
        claims = getattr(model, "all_tied_weights_keys", None) or {}
        pairs += [(prefix + target, prefix + source) for target, source in claims.items()]
    return ToolAnswer(groups_from_pairs(pairs))


def _saved(sight: WalkedModule) -> ToolAnswer:
    """Save each outermost model by itself up to the writing, and see what that comes to."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    groups: list[list[str]] = []
    dropped: list[str] = []
    for prefix, model in _models(sight):
        state = {name.removeprefix(prefix): value for name, value in sight.state.items() if name.startswith(prefix)}
        ignored = [key for key in model._keys_to_ignore_on_save or () if key in state]
        for key in ignored:
            del state[key]
        _refuse(model, state)
        left = remove_tied_weights_from_state_dict(dict(state), model)
        groups += names_by_key((_place(model, name, tensor), prefix + name) for name, tensor in state.items())
        dropped += [prefix + name for name in (*ignored, *(state.keys() - left.keys()))]
    return ToolAnswer(ordered_groups(groups), tuple(sorted(dropped)))


def _refuse(model: nn.Module, state: dict[str, Any]) -> None:
    """Leave alone what would wait for other ranks, or match a pattern for ever.

    Raises:
        NotRun: The tensors are sharded: `save_pretrained` gathers them first.
        Endless: A pattern of `_tied_weights_keys` cannot be matched in time.
    """
    if any(base.__name__ == "DTensor" for kind in set(map(type, state.values())) for base in kind.__mro__):
        raise NotRun("save_pretrained gathers the shards of every rank first")
    pattern = takes_forever(_patterns(model), lambda: state)
    if pattern is not None:
        raise Endless(f"would match the pattern {pattern!r} for longer than anybody waits")


def _place(model: Any, name: str, tensor: Any) -> Any:
    """Return what tells that two names are one tensor to a save: the bytes, on meta the object."""
    if not isinstance(tensor, Tensor) or not tensor.nbytes:
        return id(tensor)
    if tensor.is_meta:
        return id(model.get_parameter_or_buffer(name))
    return tensor.device, tensor.data_ptr(), tensor.nbytes


def _patterns(model: nn.Module) -> list[str]:
    found: list[str] = []
    for name, module in model.named_modules():
        tied: Any = getattr(module, "_tied_weights_keys", {}) or {}
        found += [f"{name}.{key}" if name else key for key in tied.keys()]  # noqa: SIM118  # a list raises, as there
    return found


PEERS = (
    ToolFunction("transformers", "all_tied_weights_keys", "5.23", _claimed, asks=_claims),
    ToolFunction(
        "transformers",
        "save_pretrained",
        "5.23",
        run=_saved,
        since=(5,),
        asks=lambda sight: any(True for _ in _models(sight)),
    ),
)
