"""Operations of training, a step and averages, and those that wrap or shard a model, over gloo (torch 2.13)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
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

TRAINING = (
    Operation("step-of-adamw", "a step of torch.optim.AdamW on every parameter", "training", _stepped),
    Operation("averaged-model", "torch.optim.swa_utils.AveragedModel(model)", "training", _averaged),
    Operation("ema-by-hand", _EMA, "training", _ema),
    Operation("functional-call", _CALL, "training", _called),
    Operation("functional-call-of-all-names", "the same, with a value for each name", "training", _called_by_each_name),
)


def _alone(do: Callable[[Trial, Any], Any]) -> Callable[[Trial], Any]:
    """Return an operation that gets a mesh of this process alone; a group that is there already is left alone."""

    def run(it: Trial) -> Any:
        if not dist.is_available() or dist.is_initialized():
            raise NotHereError("a process group is there already, or there is no torch.distributed")
        from torch.distributed.device_mesh import init_device_mesh

        hook = sys.excepthook  # torch 2.13 puts its own over it, which stays
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        try:
            return do(it, init_device_mesh("cpu", (1,)))
        finally:
            dist.destroy_process_group()
            sys.excepthook = hook

    return run


def _replicated(it: Trial, _mesh: Any) -> Any:
    return nn.parallel.DistributedDataParallel(it.model)


def _fsdp1(it: Trial, _mesh: Any) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(it.model, use_orig_params=True, device_id=torch.device("cpu"))


def _sharded(it: Trial, mesh: Any, first: Callable[[list[nn.Module]], list[Any]] = lambda _: []) -> Any:
    """Shard what is chosen of the modules of each tie first, a list of them as one group, and then the whole."""
    from torch.distributed.fsdp import fully_shard

    for group in it.names:
        owners = {id(m): m for m in (it.model.get_submodule(name.rpartition(".")[0]) for name in group)}
        for one in first([m for m in owners.values() if m is not it.model and not hasattr(m, "reshard")]):
            fully_shard(one, mesh=mesh)
    return fully_shard(it.model, mesh=mesh)


def _sharded_together(it: Trial, mesh: Any) -> Any:
    return _sharded(it, mesh, lambda owners: [owners] if owners else [])


def _sharded_apart(it: Trial, mesh: Any) -> Any:
    return _sharded(it, mesh, list)


def _distributed(it: Trial, mesh: Any) -> Any:
    from torch.distributed.tensor import distribute_module

    return distribute_module(it.model, mesh)


_EACH = "fully_shard(each module of a tie by itself); fully_shard(model)"
_GROUPS = "fully_shard([the modules of each tie]); fully_shard(model)"
_FSDP = "FullyShardedDataParallel(model, use_orig_params=True, device_id=the CPU)"
_TENSORS = "torch.distributed.tensor.distribute_module(model, mesh)"

PARALLEL = (
    Operation("ddp", "DistributedDataParallel(model)", "parallel", _alone(_replicated)),
    Operation("fsdp1", _FSDP, "parallel", _alone(_fsdp1)),
    Operation("fsdp2-whole", "fully_shard(model)", "parallel", _alone(_sharded)),
    Operation("fsdp2-together", _GROUPS, "parallel", _alone(_sharded_together)),
    Operation("fsdp2-apart", _EACH, "parallel", _alone(_sharded_apart)),
    Operation("distribute-module", _TENSORS, "parallel", _alone(_distributed)),
)

OPERATIONS = (*TRAINING, *PARALLEL)
