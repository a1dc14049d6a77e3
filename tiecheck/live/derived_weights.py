"""Members of ties whose module does not use them as they are: pruning, norms, parametrizations, adapters.

The names these leave behind were seen in torch 2.13: `weight_orig` (`torch.nn.utils.prune` and the old `spectral_norm`,
both a forward pre-hook), `weight_g` and `weight_v` (the old `weight_norm`), `parametrizations.weight.original`, and in
peft 0.21 `base_layer` and `original_module`. What a hook or a parametrization makes of a weight is computed, in a copy
of it that holds the same weight, so that the members of one tie can be compared by what is used.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tiecheck.config.options import class_path
from tiecheck.live import torch_adapter
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.live.wrappers import PEFT, wrapper_of
from tiecheck.records.live import Effect, EffectForm

PRUNING, SPECTRAL = "torch.nn.utils.prune", "torch.nn.utils.spectral_norm.SpectralNorm"

HOOKS = {
    "torch.nn.utils.prune.BasePruningMethod": PRUNING,
    SPECTRAL: "torch.nn.utils.spectral_norm",
    "torch.nn.utils.weight_norm.WeightNorm": "torch.nn.utils.weight_norm",
}
"""Class of a forward pre-hook -> what users call it; each keeps what it computes in `_tensor_name` or `name`."""


class _Between(NamedTuple):
    """The thing between a parameter and the weight that its module uses."""

    by: str
    form: EffectForm
    used: Any = None
    """The weight that comes out, or for an adapter its own parameters; None where neither can be had."""


def effects_of(places: Registrations) -> tuple[Effect, ...]:
    """Return the members of parameter ties that their module does not use as they are."""
    found: list[Effect] = []
    for first in places.repeats:
        different: list[Any] = [places.objects[first]]
        for place in places.places_of(first):
            what = _between(places.graph, places.owners[place], places.attributes[place])
            if what is not None:
                number = None if what.used is None else _number(different, what.used)
                found += [Effect(name, what.by, what.form, number) for name in places.names_at(place)]
    return tuple(sorted(found, key=lambda effect: effect.name))


def _number(different: list[Any], used: Any) -> int:
    """Return the position of a weight among those that came out so far, at the end of which it is put if it is new."""
    for number, one in enumerate(different):
        tensors = isinstance(one, Tensor) and isinstance(used, Tensor)
        if one is used or (_alike(used, one) if tensors else type(one) is type(used) is tuple and one == used):
            return number
    different.append(used)
    return len(different) - 1


def _between(graph: ModuleGraph, owner: int, attribute: str) -> _Between | None:
    """Describe what stands between a parameter and the weight that its module uses; None if nothing."""
    module = graph.modules[owner]
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        words = ", ".join(type(part).__name__ for part in module) or "a parametrization"
        original = module._parameters.get(attribute)
        return _Between(words, "transposes" if _transposes(graph, owner, original) else "changes", _computed(module))
    return _hook(module, attribute) or _adapter(graph, owner)


def _computed(module: nn.utils.parametrize.ParametrizationList) -> Tensor | None:
    """Return what a parametrization makes of its weight in evaluation; its own state stays as it is."""
    held = {id(parameter): parameter for parameter in module.parameters()}
    if any(parameter.is_meta for parameter in held.values()):
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            value = copy.deepcopy(module, held).eval()()  # with a memo: no parameter is copied
    except Exception:  # noqa: BLE001  # it is the user's own code
        return None
    return value if isinstance(value, Tensor) else None


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


def _hook(module: nn.Module, attribute: str) -> _Between | None:
    """Describe the hook that computes another attribute from this one."""
    for hook in module._forward_pre_hooks.values():
        title = next((HOOKS[n] for base in type(hook).__mro__ if (n := class_path(base)) in HOOKS), None)
        made = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        if title is not None and isinstance(made, str) and attribute.startswith(f"{made}_"):
            return _Between(title, "changes", _hooked(hook, module, made, module._parameters.get(attribute)))
    return None


def _hooked(hook: Any, module: nn.Module, made: str, original: Tensor | None) -> Tensor | None:
    """Return what a hook of torch makes of a weight; None where that would change its state."""
    mask = module._buffers.get(f"{made}_mask")
    if original is None or original.is_meta:
        return None
    with torch.no_grad():
        if mask is not None:
            return original.detach() * mask
        norm = class_path(type(hook)) == SPECTRAL
        return hook.compute_weight(module, do_power_iteration=False) if norm else None


def _alike(computed: Any, original: Any) -> bool:
    """Return True if what a hook computed last is what it was computed from."""
    if not (isinstance(computed, Tensor) and isinstance(original, Tensor)) or original.is_meta or computed.is_meta:
        return False
    with torch.no_grad():
        return computed.shape == original.shape and torch_adapter.equal_bytes(computed, original)


def _adapter(graph: ModuleGraph, owner: int) -> _Between | None:
    """Describe an adapter of PEFT over the module that registers the parameter, which is active and not merged."""
    for edge in graph.registrations_of(owner):
        layer: Any = graph.modules[edge.parent]
        if (edge.label, PEFT) != wrapper_of(layer) or getattr(layer, "disable_adapters", False) is True:
            continue
        active = [name for name in getattr(layer, "active_adapters", ()) if _has(layer, name)]
        if active and not getattr(layer, "merged", False):
            form: EffectForm = "replaces" if type(layer).__name__ == "ModulesToSaveWrapper" else "adapts"
            return _Between(f"the adapter {', '.join(active)} ({type(layer).__name__})", form, _own(layer, active))
    return None


def _own(layer: Any, active: list[str]) -> tuple[int, ...]:
    """Return the identities of the parameters that active adapters have in a layer."""
    parts = [getattr(layer, key, {}) for key in getattr(layer, "adapter_layer_names", ())]
    held = [part[name] for part in parts for name in active if name in part]
    tensors = [one.parameters() if isinstance(one, nn.Module) else [one] for one in held]
    return tuple(id(parameter) for some in tensors for parameter in some)


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
