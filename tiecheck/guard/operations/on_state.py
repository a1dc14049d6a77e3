"""Operations on a state dict and on files: loads of every sort (torch 2.13), safetensors (0.8), torch.export."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.guard.operations.registry import NotHereError, Operation, Trial

State = dict[str, Tensor]


def _whole(it: Trial) -> State:
    return dict(it.model.state_dict())


def _clones(it: Trial) -> State:
    return {name: tensor.clone() for name, tensor in _whole(it).items()}


def _once(it: Trial) -> State:
    """Return clones of what a state dict holds, each object under its first name alone, as torch lists them."""
    listed = [*it.model.named_parameters(), *it.model.named_buffers()]
    state = it.model.state_dict()
    return {name: tensor.detach().clone() for name, tensor in listed if name in state}


def _from_file(it: Trial) -> State:
    path = os.path.join(it.folder, "state.pt")
    torch.save(it.model.state_dict(), path)
    state: State = torch.load(path, weights_only=True)
    return state


def _from_checkpoint(it: Trial) -> State:
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    save(it.model.state_dict(), checkpoint_id=it.folder, no_dist=True)
    state: State = it.blank().state_dict()
    load(state, checkpoint_id=it.folder, no_dist=True)
    return state


def _stacked(it: Trial) -> State:
    parameters, buffers = torch.func.stack_module_state([it.model])
    return {name: tensor[0].detach() for name, tensor in {**parameters, **buffers}.items()}


def _load(
    of: Callable[[Trial], State], into: Callable[[Trial], nn.Module] = Trial.blank, **options: bool
) -> Callable[[Trial], Any]:
    """Return an operation that loads a state of the model into another instance, by default a fresh one."""

    def run(it: Trial) -> Any:
        model = into(it)
        model.load_state_dict(of(it), **options)
        return model

    return run


_ASSIGN = "model.load_state_dict(model.state_dict(), assign=True)"
_CLONES = "model.load_state_dict({k: v.clone() ...}, assign=True)"
_ONCE = "model.load_state_dict(de-duplicated"
_FILE = "torch.save(model.state_dict()); fresh.load_state_dict(torch.load(...)"
_DCP = "torch.distributed.checkpoint.save and load of the state dict"
_STACK = "torch.func.stack_module_state([model]); the stacked state, loaded"
_LOADS = (
    ("load-state-dict", "model.load_state_dict(state)", _load(_whole)),
    ("load-state-dict-assign", _ASSIGN, _load(_whole, lambda it: it.model, assign=True)),
    ("load-clones-assign", _CLONES, _load(_clones, assign=True)),
    ("load-once-assign", f"{_ONCE}, strict=False, assign=True)", _load(_once, strict=False, assign=True)),
    ("load-once-into-meta", f"{_ONCE}, ...) on meta", _load(_once, Trial.on_meta, strict=False, assign=True)),
    ("load-once-strict", f"{_ONCE})", _load(_once)),
    ("torch-save-state", f"{_FILE})", _load(_from_file)),
    ("torch-save-state-assign", f"{_FILE}, assign=True)", _load(_from_file, assign=True)),
    ("distributed-checkpoint", _DCP, _load(_from_checkpoint)),
    ("stacked-state", _STACK, _load(_stacked, strict=False)),
)
STATES = tuple(Operation(name, words, "state", do, saves=True) for name, words, do in _LOADS)


def _saved(it: Trial, into: Callable[[Trial], Any] = Trial.blank) -> Any:
    from safetensors.torch import load_model, save_model

    path = os.path.join(it.folder, "model.safetensors")
    save_model(it.model, path)
    model = into(it)
    load_model(model, path)
    return model


def _saved_into_meta(it: Trial) -> Any:
    return _saved(it, Trial.on_meta)


def _saved_state(it: Trial) -> Any:
    from safetensors.torch import load_file, save_file

    path = os.path.join(it.folder, "model.safetensors")
    save_file(it.model.state_dict(), path)
    model = it.blank()
    model.load_state_dict(load_file(path))
    return model


def _exported(it: Trial) -> Any:
    ids = it.tokens()
    try:
        return torch.export.export(it.model, (ids,), strict=False)
    except Exception as error:  # most models take more than tokens
        raise NotHereError(f"torch.export does not take it with tokens alone ({type(error).__name__})") from error


def _exported_and_loaded(it: Trial) -> Any:
    path = os.path.join(it.folder, "model.pt2")
    torch.export.save(_exported(it), path)
    return torch.export.load(path).module()


_MODEL = "safetensors.torch.save_model; load_model into"
_SAVED_FILE = "safetensors.torch.save_file(model.state_dict()); load_file"
_EXPORT = "torch.export.export(model, (tokens,), strict=False).module()"
_LOAD = "torch.export.save; torch.export.load(...).module()"

FILES = (
    Operation("safetensors-model", f"{_MODEL} a fresh instance", "files", _saved, saves=True),
    Operation("safetensors-into-meta", f"{_MODEL} one on meta", "files", _saved_into_meta, saves=True),
    Operation("safetensors-file", _SAVED_FILE, "files", _saved_state, saves=True),
    Operation("exported", _EXPORT, "files", lambda it: _exported(it).module()),
    Operation("exported-and-loaded", _LOAD, "files", _exported_and_loaded, saves=True),
)

OPERATIONS = (*STATES, *FILES)
