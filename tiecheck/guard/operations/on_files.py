"""Operations with safetensors (0.8) and torch.export (2.13)."""

from __future__ import annotations

import os
from typing import Any

import torch

from tiecheck.guard.operations.registry import NotHereError, Trial, operation


def _loaded(it: Trial, model: Any) -> Any:
    """Save the model and load the file into another instance."""
    from safetensors.torch import load_model, save_model

    path = os.path.join(it.folder, "model.safetensors")
    save_model(it.model, path)
    load_model(model, path)
    return model


@operation("files", "safetensors.torch.save_model; load_model into a fresh instance", saves=True)
def safetensors_model(it: Trial) -> Any:
    return _loaded(it, it.blank())


@operation("files", "safetensors.torch.save_model; load_model into one built on meta", saves=True)
def safetensors_into_meta(it: Trial) -> Any:
    return _loaded(it, it.on_meta())


@operation("files", "safetensors.torch.save_file(model.state_dict()); load_file", saves=True)
def safetensors_file(it: Trial) -> Any:
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


@operation("files", "torch.export.export(model, (tokens,), strict=False).module()")
def exported(it: Trial) -> Any:
    return _exported(it).module()


@operation("files", "torch.export.save; torch.export.load(...).module()", saves=True)
def exported_and_loaded(it: Trial) -> Any:
    path = os.path.join(it.folder, "model.pt2")
    torch.export.save(_exported(it), path)
    return torch.export.load(path).module()
