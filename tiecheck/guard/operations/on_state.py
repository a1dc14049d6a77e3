"""Operations on a state dict: loads of every sort (torch 2.13)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.guard.operations.registry import Trial, operation


def _once(model: nn.Module) -> dict[str, Tensor]:
    """Return clones of what a state dict holds, each object under its first name alone, as torch lists them."""
    listed = [*model.named_parameters(), *model.named_buffers()]
    state = model.state_dict()
    return {name: tensor.detach().clone() for name, tensor in listed if name in state}


def _saved(it: Trial, state: Any) -> Any:
    path = os.path.join(it.folder, "state.pt")
    torch.save(state, path)
    return torch.load(path, weights_only=True)


@operation("state", "model.load_state_dict(state)", saves=True)
def load_state_dict(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict(it.model.state_dict())
    return model


@operation("state", "model.load_state_dict(model.state_dict(), assign=True)", saves=True)
def load_state_dict_assign(it: Trial) -> Any:
    it.model.load_state_dict(it.model.state_dict(), assign=True)
    return it.model


@operation("state", "model.load_state_dict({k: v.clone() ...}, assign=True)", saves=True)
def load_clones_assign(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict({name: tensor.clone() for name, tensor in it.model.state_dict().items()}, assign=True)
    return model


@operation("state", "model.load_state_dict(de-duplicated, strict=False, assign=True)", saves=True)
def load_once_assign(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict(_once(it.model), strict=False, assign=True)
    return model


@operation("state", "built on meta, model.load_state_dict(de-duplicated, strict=False, assign=True)", saves=True)
def load_once_into_meta(it: Trial) -> Any:
    model = it.on_meta()
    model.load_state_dict(_once(it.model), strict=False, assign=True)
    return model


@operation("state", "model.load_state_dict(de-duplicated)", saves=True)
def load_once_strict(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict(_once(it.model))
    return model


@operation("state", "torch.save(model.state_dict()); fresh.load_state_dict(torch.load(...))", saves=True)
def torch_save_state(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict(_saved(it, it.model.state_dict()))
    return model


@operation("state", "torch.save(model.state_dict()); fresh.load_state_dict(torch.load(...), assign=True)", saves=True)
def torch_save_state_assign(it: Trial) -> Any:
    model = it.blank()
    model.load_state_dict(_saved(it, it.model.state_dict()), assign=True)
    return model


@operation("state", "torch.distributed.checkpoint.save and load of the state dict", saves=True)
def distributed_checkpoint(it: Trial) -> Any:
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    save(it.model.state_dict(), checkpoint_id=it.folder, no_dist=True)
    model = it.blank()
    state = model.state_dict()
    load(state, checkpoint_id=it.folder, no_dist=True)
    model.load_state_dict(state)
    return model


@operation("state", "torch.func.stack_module_state([model]); the stacked state, loaded", saves=True)
def stacked_state(it: Trial) -> Any:
    parameters, buffers = torch.func.stack_module_state([it.model])
    model: nn.Module = it.blank()
    state = {name: tensor[0].detach() for name, tensor in {**parameters, **buffers}.items()}
    model.load_state_dict(state, strict=False)
    return model
