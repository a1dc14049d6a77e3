"""transformers (5.23.0): what a model claims is tied, and what `save_pretrained` would leave out or refuse.

`all_tied_weights_keys` is written once, from class and config, and kept whatever becomes of the model: a claim, never
evidence. What is saved goes by memory (on meta by object) and by the patterns of `_tied_weights_keys`, whatever the
config's flag says; whether the values can then be written is not looked at.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from tiecheck.patterns import takes_forever
from tiecheck.peers.views.module_walks import Endless, names_by_key
from tiecheck.peers.views.safetensors import end_address, split_by_range, storage_address
from tiecheck.peers.views.tool_functions import (
    NotRun,
    ToolAnswer,
    ToolFunction,
    WalkedModule,
    groups_from_pairs,
    ordered_groups,
)

REFUSED = (
    "The weights trying to be saved contained shared tensors {names} which are not properly defined. "
    "We found all the potential target tied weights keys to be: {keys}.\n"
    "This can also just mean that the module's tied weight keys are wrong vs the actual tied weights in the model."
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


def _each(save: Callable[[Any, dict[str, Any]], ToolAnswer], sight: WalkedModule) -> ToolAnswer:
    """Save each outermost model by itself, and see what that comes to."""
    groups: list[list[str]] = []
    dropped: list[str] = []
    for prefix, model in _models(sight):
        state = {name.removeprefix(prefix): value for name, value in sight.state.items() if name.startswith(prefix)}
        ignored = [key for key in model._keys_to_ignore_on_save or () if key in state]
        for key in ignored:
            del state[key]
        _refuse(model, state)
        seen = save(model, state)
        groups += [[prefix + name for name in group] for group in seen.groups]
        dropped += [prefix + name for name in (*ignored, *seen.dropped)]
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


def _identifier(model: Any, name: str, tensor: Any) -> Any:
    """Return what `remove_tied_weights_from_state_dict` groups by: the storage, on meta the object."""
    if not isinstance(tensor, Tensor):
        return id(tensor)
    if tensor.device.type == "meta":
        return id(model.get_parameter_or_buffer(name))
    return tensor.device, storage_address(tensor), tensor.untyped_storage().nbytes()


def _patterns(model: nn.Module) -> list[str]:
    found: list[str] = []
    for name, module in model.named_modules():
        tied: Any = getattr(module, "_tied_weights_keys", {}) or {}
        found += [f"{name}.{key}" if name else key for key in tied.keys()]  # noqa: SIM118  # a list raises, as there
    return found


def _shared(model: Any, state: dict[str, Any]) -> list[list[str]]:
    return names_by_key((_identifier(model, name, tensor), name) for name, tensor in state.items())


def _save(model: Any, state: dict[str, Any]) -> ToolAnswer:
    """Reproduce `remove_tied_weights_from_state_dict`, without cloning what is disjoint."""
    shared = _shared(model, state)
    patterns = set(_patterns(model))
    declared = set()
    for names in shared:
        fitting = [name for name in sorted(names) if any(re.search(pattern, name) for pattern in patterns)]
        declared |= set(fitting[: len(names) - 1])
    groups = [names for names in split_by_range(shared, state, furthest=True) if len(names) > 1]
    dropped: list[str] = []
    wrong, parts = [], []
    for names in groups:
        if len({(state[name].device, state[name].data_ptr(), end_address(state[name])) for name in names}) > 1:
            parts.append(set(names))
            continue
        dropped += [name for name in names if name in declared]
        unknown = set(names) - declared
        if len(unknown) > 1:
            wrong.append(unknown)
    if wrong or parts:
        raise RuntimeError(REFUSED.format(names=wrong + parts, keys=patterns))
    return ToolAnswer(ordered_groups(groups), tuple(sorted(dropped)))


def _run_save(model: Any, state: dict[str, Any]) -> ToolAnswer:
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    left = remove_tied_weights_from_state_dict(dict(state), model)
    groups = [names for names in split_by_range(_shared(model, state), state, furthest=True) if len(names) > 1]
    return ToolAnswer(ordered_groups(groups), tuple(sorted(state.keys() - left.keys())))


PEERS = (
    ToolFunction("transformers", "all_tied_weights_keys", "5.23", _claimed, asks=_claims),
    ToolFunction(
        "transformers",
        "save_pretrained",
        "5.23",
        partial(_each, _save),
        partial(_each, _run_save),
        since=(5,),
        asks=lambda sight: any(True for _ in _models(sight)),
    ),
)
