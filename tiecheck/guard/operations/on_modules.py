"""Operations of torch on a module: conversions, moves, copies, and what puts something over a weight (torch 2.13)."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from tiecheck.guard.operations.registry import NotHereError, Operation, Trial


def _emptied(it: Trial) -> Any:
    return it.on_meta().to_empty(device="cpu")


def _tied_again(it: Trial) -> Any:
    model = _emptied(it)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
        return model
    for first, *others in it.names:
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, model.get_parameter(first))
    return model


def _in_future(name: str, do: Callable[[Trial], Any]) -> Callable[[Trial], Any]:
    """Return an operation under one of torch's futures of conversions (`torch.__future__`)."""

    def run(it: Trial) -> Any:
        read = getattr(torch.__future__, f"get_{name}_module_params_on_conversion")
        write = getattr(torch.__future__, f"set_{name}_module_params_on_conversion")
        before = read()
        write(True)
        try:
            return do(it)
        finally:
            write(before)

    return run


def _children_copied(it: Trial) -> Any:
    for name, child in list(it.model._modules.items()):
        setattr(it.model, name, copy.deepcopy(child))
    return it.model


def _layers_copied(it: Trial) -> Any:
    lists = [module for module in it.model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    if not lists:
        raise NotHereError("it has no list of layers")
    for held in lists:
        for i in range(len(held)):
            held[i] = copy.deepcopy(held[i])
    return it.model


def _saved(it: Trial) -> Any:
    file = io.BytesIO()
    torch.save(it.model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class _Doubled(nn.Module):
    """A parametrization that cannot be undone."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Twice the weight."""
        return weight * 2


def _on_layer(*steps: Callable[..., Any]) -> Callable[[Trial], Any]:
    """Return an operation that calls functions with one tied layer and the name of its weight."""

    def run(it: Trial) -> Any:
        layer = it.layer()
        for step in steps:
            step(*layer)
        return it.model

    return run


def _pruned(layer: nn.Module, name: str) -> None:
    prune.random_unstructured(layer, name, amount=0.5)  # type: ignore[no-untyped-call]


def _doubled(layer: nn.Module, name: str) -> None:
    parametrize.register_parametrization(layer, name, _Doubled())


_OVERWRITE, _SWAP = (f"torch.__future__.set_{name}_module_params_on_conversion(True)" for name in ("overwrite", "swap"))
_UTILS = "torch.nn.utils"
_REMOVE = f"the same, then {_UTILS}.parametrize.remove_parametrizations(layer, 'weight')"
_DOUBLE = f"{_UTILS}.parametrize.register_parametrization(layer, 'weight', Doubled())"
_SAVE = "torch.save(model, file); torch.load(file, weights_only=False)"

_KEEP = (
    ("half", "model.half()", lambda it: it.model.half()),
    ("bfloat16", "model.bfloat16()", lambda it: it.model.bfloat16()),
    ("double", "model.double()", lambda it: it.model.double()),
    ("to-same-device", "model.to('cpu')", lambda it: it.model.to("cpu")),
    ("share-memory", "model.share_memory()", lambda it: it.model.share_memory()),
    ("freeze", "model.requires_grad_(False)", lambda it: it.model.requires_grad_(False)),
    ("half-overwriting", f"model.half(), {_OVERWRITE}", _in_future("overwrite", lambda it: it.model.half())),
    ("deepcopy", "copy.deepcopy(model)", lambda it: copy.deepcopy(it.model)),
    ("deepcopy-layers", "layers[i] = copy.deepcopy(layers[i]) for each layer of each list", _layers_copied),
    ("pickled", "pickle.loads(pickle.dumps(model))", lambda it: pickle.loads(pickle.dumps(it.model))),  # noqa: S301
    ("torch-save-model", _SAVE, _saved),
    ("compiled", "torch.compile(model)", lambda it: torch.compile(it.model, backend="eager")),
    ("pruned", f"{_UTILS}.prune.random_unstructured(layer, 'weight', 0.5)", _on_layer(_pruned)),
    ("pruned-and-removed", "the same, then prune.remove(layer, 'weight')", _on_layer(_pruned, prune.remove)),
    ("weight-normed", f"{_UTILS}.parametrizations.weight_norm(layer)", _on_layer(weight_norm)),
    ("weight-norm-removed", _REMOVE, _on_layer(weight_norm, parametrize.remove_parametrizations)),
    ("parametrized", _DOUBLE, _on_layer(_doubled)),
)
_PART = (
    ("to-meta", "model.to('meta')", lambda it: it.model.to("meta")),
    ("to-empty-from-meta", "built on meta, then model.to_empty(device='cpu')", _emptied),
    ("to-empty-on-cpu", "model.to_empty(device='cpu'), on the CPU already", lambda it: it.model.to_empty(device="cpu")),
    ("to-empty-and-tie", "built on meta, to_empty(device='cpu'), then each alias assigned again", _tied_again),
    ("to-meta-swapping", f"model.to('meta'), {_SWAP}", _in_future("swap", lambda it: it.model.to("meta"))),
    ("to-empty-swapping", f"built on meta, to_empty, {_SWAP}", _in_future("swap", _emptied)),
    ("deepcopy-children", "setattr(model, name, copy.deepcopy(child)) for each child", _children_copied),
)
OPERATIONS = tuple(
    Operation(name, words, "torch", do, by_nature=part, saves=words is _SAVE)
    for rows, part in ((_KEEP, False), (_PART, True))
    for name, words, do in rows
)
