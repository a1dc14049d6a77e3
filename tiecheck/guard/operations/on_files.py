"""Operations with safetensors (0.8) and torch.export (2.13)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from tiecheck.guard.operations.registry import NotHereError, Operation, Trial


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
_FILE = "safetensors.torch.save_file(model.state_dict()); load_file"
_EXPORT = "torch.export.export(model, (tokens,), strict=False).module()"
_LOAD = "torch.export.save; torch.export.load(...).module()"

OPERATIONS = (
    Operation("safetensors-model", f"{_MODEL} a fresh instance", "files", _saved, saves=True),
    Operation("safetensors-into-meta", f"{_MODEL} one on meta", "files", _saved_into_meta, saves=True),
    Operation("safetensors-file", _FILE, "files", _saved_state, saves=True),
    Operation("exported", _EXPORT, "files", lambda it: _exported(it).module()),
    Operation("exported-and-loaded", _LOAD, "files", _exported_and_loaded, saves=True),
)
