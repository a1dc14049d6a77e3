"""Operations of torch on a module: conversions, moves, copies, and what puts something over a weight (torch 2.13)."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tiecheck.guard.operations.registry import NotHereError, Trial, operation


@operation("torch", "model.half()")
def half(it: Trial) -> Any:
    return it.model.half()


@operation("torch", "model.bfloat16()")
def bfloat16(it: Trial) -> Any:
    return it.model.bfloat16()


@operation("torch", "model.double()")
def double(it: Trial) -> Any:
    return it.model.double()


@operation("torch", "model.to('cpu')")
def to_same_device(it: Trial) -> Any:
    return it.model.to("cpu")


@operation("torch", "model.share_memory()")
def share_memory(it: Trial) -> Any:
    return it.model.share_memory()


@operation("torch", "model.requires_grad_(False)")
def freeze(it: Trial) -> Any:
    return it.model.requires_grad_(False)


@operation("torch", "model.to('meta')", by_nature=True)
def to_meta(it: Trial) -> Any:
    return it.model.to("meta")


@operation("torch", "built on meta, then model.to_empty(device='cpu')", by_nature=True)
def to_empty_from_meta(it: Trial) -> Any:
    return it.on_meta().to_empty(device="cpu")


@operation("torch", "model.to_empty(device='cpu'), on the CPU already", by_nature=True)
def to_empty_on_cpu(it: Trial) -> Any:
    return it.model.to_empty(device="cpu")


@operation("torch", "built on meta, to_empty(device='cpu'), then each alias assigned again", by_nature=True)
def to_empty_and_tie(it: Trial) -> Any:
    model = it.on_meta().to_empty(device="cpu")
    if hasattr(model, "tie_weights"):
        model.tie_weights()
        return model
    for first, *others in it.names:
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, model.get_parameter(first))
    return model


@contextmanager
def _future(name: str) -> Iterator[None]:
    """Turn on one of torch's futures of conversions."""
    read = getattr(torch.__future__, f"get_{name}_module_params_on_conversion")
    write = getattr(torch.__future__, f"set_{name}_module_params_on_conversion")
    before = read()
    write(True)
    try:
        yield
    finally:
        write(before)


@operation("torch", "model.half(), torch.__future__.set_overwrite_module_params_on_conversion(True)")
def half_overwriting(it: Trial) -> Any:
    with _future("overwrite"):
        return it.model.half()


@operation("torch", "model.to('meta'), torch.__future__.set_swap_module_params_on_conversion(True)", by_nature=True)
def to_meta_swapping(it: Trial) -> Any:
    with _future("swap"):
        return it.model.to("meta")


@operation(
    "torch", "built on meta, to_empty, torch.__future__.set_swap_module_params_on_conversion(True)", by_nature=True
)
def to_empty_swapping(it: Trial) -> Any:
    with _future("swap"):
        return it.on_meta().to_empty(device="cpu")


@operation("torch", "copy.deepcopy(model)")
def deepcopy(it: Trial) -> Any:
    return copy.deepcopy(it.model)


@operation("torch", "setattr(model, name, copy.deepcopy(child)) for each child", by_nature=True)
def deepcopy_children(it: Trial) -> Any:
    model = it.model
    for name, child in list(model._modules.items()):
        setattr(model, name, copy.deepcopy(child))
    return model


@operation("torch", "layers[i] = copy.deepcopy(layers[i]) for each layer of each list", by_nature=True)
def deepcopy_layers(it: Trial) -> Any:
    lists = [module for module in it.model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    if not lists:
        raise NotHereError("it has no list of layers")
    for held in lists:
        for i in range(len(held)):
            held[i] = copy.deepcopy(held[i])
    return it.model


@operation("torch", "pickle.loads(pickle.dumps(model))")
def pickled(it: Trial) -> Any:
    return pickle.loads(pickle.dumps(it.model))  # noqa: S301  # written a moment ago


@operation("torch", "torch.save(model, file); torch.load(file, weights_only=False)", saves=True)
def torch_save_model(it: Trial) -> Any:
    file = io.BytesIO()
    torch.save(it.model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@operation("torch", "torch.compile(model)")
def compiled(it: Trial) -> Any:
    return torch.compile(it.model, backend="eager")


@operation("torch", "torch.nn.utils.prune.random_unstructured(layer, 'weight', 0.5)")
def pruned(it: Trial) -> Any:
    prune.random_unstructured(*it.layer(), amount=0.5)  # type: ignore[no-untyped-call]
    return it.model


@operation("torch", "the same, then torch.nn.utils.prune.remove(layer, 'weight')")
def pruned_and_removed(it: Trial) -> Any:
    layer, name = it.layer()
    prune.random_unstructured(layer, name, amount=0.5)  # type: ignore[no-untyped-call]
    prune.remove(layer, name)  # type: ignore[no-untyped-call]
    return it.model


@operation("torch", "torch.nn.utils.parametrizations.weight_norm(layer)")
def weight_normed(it: Trial) -> Any:
    layer, name = it.layer()
    parametrizations.weight_norm(layer, name)
    return it.model


@operation("torch", "the same, then torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')")
def weight_norm_removed(it: Trial) -> Any:
    layer, name = it.layer()
    parametrizations.weight_norm(layer, name)
    parametrize.remove_parametrizations(layer, name)
    return it.model


class _Doubled(nn.Module):
    """A parametrization that cannot be undone."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Twice the weight."""
        return weight * 2


@operation("torch", "torch.nn.utils.parametrize.register_parametrization(layer, 'weight', Doubled())")
def parametrized(it: Trial) -> Any:
    layer, name = it.layer()
    parametrize.register_parametrization(layer, name, _Doubled())
    return it.model
