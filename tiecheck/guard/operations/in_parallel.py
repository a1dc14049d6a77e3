"""Operations that wrap or shard a model, in one process over gloo (torch 2.13)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

from tiecheck.guard.operations.registry import NotHereError, Trial, operation


@contextmanager
def _one_process() -> Iterator[Any]:
    """Give a mesh of this process alone; a group that is there already is left alone."""
    if not dist.is_available() or dist.is_initialized():
        raise NotHereError("a process group is there already, or there is no torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh

    hook = sys.excepthook  # torch 2.13 puts its own over it, which stays
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


@operation("parallel", "DistributedDataParallel(model)")
def ddp(it: Trial) -> Any:
    with _one_process():
        return nn.parallel.DistributedDataParallel(it.model)


@operation("parallel", "fully_shard(model)")
def fsdp2_whole(it: Trial) -> Any:
    from torch.distributed.fsdp import fully_shard

    with _one_process() as mesh:
        return fully_shard(it.model, mesh=mesh)


@operation("parallel", "fully_shard([the modules of each tie]); fully_shard(model)")
def fsdp2_together(it: Trial) -> Any:
    from torch.distributed.fsdp import fully_shard

    with _one_process() as mesh:
        for group in it.names:
            owners = {id(m): m for m in (it.model.get_submodule(name.rpartition(".")[0]) for name in group)}
            if it.model not in owners.values():
                fully_shard(list(owners.values()), mesh=mesh)
        return fully_shard(it.model, mesh=mesh)


@operation("parallel", "fully_shard(each module of a tie by itself); fully_shard(model)")
def fsdp2_apart(it: Trial) -> Any:
    from torch.distributed.fsdp import fully_shard

    with _one_process() as mesh:
        for group in it.names:
            for name in group:
                owner = it.model.get_submodule(name.rpartition(".")[0])
                if owner is not it.model and not hasattr(owner, "reshard"):
                    fully_shard(owner, mesh=mesh)
        return fully_shard(it.model, mesh=mesh)


@operation("parallel", "torch.distributed.tensor.distribute_module(model, mesh)")
def distribute_module(it: Trial) -> Any:
    from torch.distributed.tensor import distribute_module as distribute

    with _one_process() as mesh:
        return distribute(it.model, mesh)
