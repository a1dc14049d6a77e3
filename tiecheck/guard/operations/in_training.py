"""Operations of training: a step, and averages (torch 2.13)."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from tiecheck.guard.operations.registry import NotHereError, Operation, Trial


def _stepped(it: Trial) -> Any:
    parameters = [one for one in it.model.parameters() if one.requires_grad and one.is_floating_point()]
    if not parameters:
        raise NotHereError("nothing of it trains")
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    torch.optim.AdamW(parameters, lr=0.01).step()
    it.model.zero_grad()
    return it.model


def _averaged(it: Trial) -> Any:
    average = AveragedModel(it.model)
    average.update_parameters(it.model)
    return average


def _ema(it: Trial) -> Any:
    state = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    for name, tensor in it.model.state_dict().items():
        if tensor.is_floating_point():
            state[name].mul_(0.9).add_(tensor, alpha=0.1)
    model = it.blank()
    model.load_state_dict(state)
    return model


def _called(it: Trial, *, remove_duplicate: bool = True) -> Any:
    """Call the model as a function of some parameters; what is looked at is the model itself afterwards."""
    ids, named = it.tokens(), it.model.named_parameters(remove_duplicate=remove_duplicate)
    try:
        it.model(ids)
    except Exception as error:  # many models take more than tokens
        raise NotHereError(f"it does not run on tokens alone ({type(error).__name__})") from error
    torch.func.functional_call(it.model, {name: one.detach() * 2 for name, one in named}, (ids,))
    return it.model


def _called_by_each_name(it: Trial) -> Any:
    return _called(it, remove_duplicate=False)


_CALL = "torch.func.functional_call(model, dict(model.named_parameters()), (tokens,))"
_EMA = "an EMA by hand: {k: v.clone() ...}, mixed, loaded into a fresh instance"

OPERATIONS = (
    Operation("step-of-adamw", "a step of torch.optim.AdamW on every parameter", "training", _stepped),
    Operation("averaged-model", "torch.optim.swa_utils.AveragedModel(model)", "training", _averaged),
    Operation("ema-by-hand", _EMA, "training", _ema),
    Operation("functional-call", _CALL, "training", _called),
    Operation("functional-call-of-all-names", "the same, with a value for each name", "training", _called_by_each_name),
)
