"""Members of a tie whose module computes another weight from them: pruning, norms, parametrizations, adapters.

The names these leave behind were seen in torch 2.13: `weight_orig` (`torch.nn.utils.prune` and the old `spectral_norm`,
both a forward pre-hook), `weight_g` and `weight_v` (the old `weight_norm`), `parametrizations.weight.original`, and in
peft 0.21 `base_layer`. Nothing is computed: what a parametrization makes of a weight would be its own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.live import torch_adapter
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import PEFT, qualified_name, wrapper_of
from tiecheck.records.live import Effect, EffectForm

PRUNING = "torch.nn.utils.prune"

HOOKS = {
    "torch.nn.utils.prune.BasePruningMethod": PRUNING,
    "torch.nn.utils.spectral_norm.SpectralNorm": "torch.nn.utils.spectral_norm",
    "torch.nn.utils.weight_norm.WeightNorm": "torch.nn.utils.weight_norm",
}
"""Class of a forward pre-hook -> what users call it; each keeps what it computes in `_tensor_name` or `name`."""


def effects_of(places: Registrations) -> tuple[Effect, ...]:
    """Return the members of parameter ties that their module does not use as they are."""
    found: list[Effect] = []
    for first in places.repeats:
        for place in places.places_of(first):
            what = _effect_of(places.graph, places.owners[place], places.attributes[place])
            if what is not None:
                found += [Effect(name, *what) for name in places.names_at(place)]
    return tuple(sorted(found))


def _effect_of(graph: ModuleGraph, owner: int, attribute: str) -> tuple[str, EffectForm] | None:
    """Describe what stands between a parameter and the weight that its module uses, with its form; None if nothing."""
    module = graph.modules[owner]
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        words = ", ".join(type(part).__name__ for part in module) or "a parametrization"
        turned = _transposes(graph, owner, module._parameters.get(attribute))
        return words, "transposes" if turned else "changes"
    hooked = _hook(module, attribute)
    if hooked:
        return hooked, "changes"
    return _adapter(graph, owner)


def _transposes(graph: ModuleGraph, number: int, original: Any) -> bool:
    """Return True if a linear layer holds the transpose of what it wants, which the parametrization has to turn."""
    above = graph.registrations_of(number)
    holders = [edge for one in above for edge in graph.registrations_of(one.parent)]
    owners = [graph.modules[edge.parent] for edge in holders]
    return any(
        isinstance(owner, nn.Linear)
        and isinstance(original, Tensor)
        and tuple(original.shape) == (owner.in_features, owner.out_features) != (owner.out_features, owner.in_features)
        for owner in owners
    )


def _hook(module: nn.Module, attribute: str) -> str | None:
    """Name the hook that computes another attribute from this one, where what it computed last is not the same."""
    for hook in module._forward_pre_hooks.values():
        title = next((HOOKS[n] for base in type(hook).__mro__ if (n := qualified_name(base)) in HOOKS), None)
        if title is None:
            continue
        computed = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        if isinstance(computed, str) and attribute.startswith(f"{computed}_"):
            now = vars(module).get(computed) if title == PRUNING else None
            return None if _alike(now, module._parameters.get(attribute)) else title  # a mask of ones
    return None


def _alike(computed: Any, original: Any) -> bool:
    """Return True if what a hook computed last is what it was computed from."""
    if not (isinstance(computed, Tensor) and isinstance(original, Tensor)) or original.is_meta or computed.is_meta:
        return False
    with torch.no_grad():
        return computed.shape == original.shape and torch_adapter.equal_bytes(computed, original)


def _adapter(graph: ModuleGraph, owner: int) -> tuple[str, EffectForm] | None:
    """Describe an adapter of PEFT over the module that registers the parameter, which is active and not merged."""
    for edge in graph.registrations_of(owner):
        layer: Any = graph.modules[edge.parent]
        if (edge.label, PEFT) != wrapper_of(layer) or getattr(layer, "disable_adapters", False) is True:
            continue
        merged = getattr(layer, "merged", False)
        active = [name for name in getattr(layer, "active_adapters", ()) if _has(layer, name)]
        if active and not merged:
            return f"the adapter {', '.join(active)} ({type(layer).__name__})", "adapts"
    return None


def _has(layer: Any, name: str) -> bool:
    """Return True if an adapter has weights in a layer."""
    held = (getattr(layer, key, {}) for key in getattr(layer, "adapter_layer_names", ()))
    return any(name in part for part in held)


def name_before(name: str) -> str:
    """Return the name that a member had before pruning, a norm or a parametrization moved it."""
    path, _, moved = name.rpartition(".parametrizations.")
    if moved.endswith(".original"):
        return f"{path}.{moved.removesuffix('.original')}"
    return name.removesuffix("_orig")
