"""Operations of training: a step, and averages (torch 2.13)."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from tiecheck.guard.operations.registry import NotHereError, Trial, operation


@operation("training", "a step of torch.optim.AdamW on every parameter")
def step_of_adamw(it: Trial) -> Any:
    parameters = [one for one in it.model.parameters() if one.requires_grad and one.is_floating_point()]
    if not parameters:
        raise NotHereError("nothing of it trains")
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    torch.optim.AdamW(parameters, lr=0.01).step()
    it.model.zero_grad()
    return it.model


@operation("training", "torch.optim.swa_utils.AveragedModel(model)")
def averaged_model(it: Trial) -> Any:
    average = AveragedModel(it.model)
    average.update_parameters(it.model)
    return average


@operation("training", "an EMA by hand: {k: v.clone() ...}, mixed, loaded into a fresh instance")
def ema_by_hand(it: Trial) -> Any:
    state = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    for name, tensor in it.model.state_dict().items():
        if tensor.is_floating_point():
            state[name].mul_(0.9).add_(tensor, alpha=0.1)
    model = it.blank()
    model.load_state_dict(state)
    return model


def _called(it: Trial, parameters: dict[str, torch.Tensor]) -> Any:
    """Call the model as a function of some parameters; what is looked at is the model itself afterwards."""
    ids = it.tokens()
    try:
        it.model(ids)
    except Exception as error:  # many models take more than tokens
        raise NotHereError(f"it does not run on tokens alone ({type(error).__name__})") from error
    torch.func.functional_call(it.model, parameters, (ids,))
    return it.model


@operation("training", "torch.func.functional_call(model, dict(model.named_parameters()), (tokens,))")
def functional_call(it: Trial) -> Any:
    return _called(it, {name: one.detach() * 2 for name, one in it.model.named_parameters()})


@operation("training", "functional_call with a value for each name, of one group too")
def functional_call_of_all_names(it: Trial) -> Any:
    return _called(it, {n: one.detach() * 2 for n, one in it.model.named_parameters(remove_duplicate=False)})
