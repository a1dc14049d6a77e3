"""A tied GPT, and what people and libraries do to one in place: operations that keep its tie, and those that break it.

The line of each that a guard is to blame is marked.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.ao.quantization import quantize_dynamic
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import SplitPoint, pipeline
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.utils import parametrizations, prune

IDS = torch.arange(6)[None]


class UnfitError(Exception):
    """An operation needs a plain head, which an earlier one of the row has wrapped."""


class GPT(nn.Module):
    """A language model of two blocks, tied as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(12, 8)
        block = (nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.blocks = nn.ModuleList(nn.Sequential(*map(copy.deepcopy, block)) for _ in range(2))
        self.lm_head = nn.Linear(8, 12, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.lm_head(x)


class Lora(nn.Module):
    """A layer of one's own around another."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.more = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


class TiedHead(nn.Module):
    """A head without a weight of its own."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table.weight.t()


def innermost(layer: Any) -> Any:
    while isinstance(layer, Lora):
        layer = layer.base
    return layer.table if isinstance(layer, TiedHead) else layer


def in_a_thread(do: Callable[[], Any]) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


def own_head(model: Any) -> Any:
    """The innermost layer of the head, where it has a weight of its own."""
    layer = model.lm_head
    while isinstance(layer, Lora):
        layer = layer.base
    if not isinstance(layer, nn.Linear):
        raise UnfitError
    return layer


def is_tied(model: Any) -> bool:
    """The truth: the weight that the head uses is the very object that the embedding looks up in."""
    head, table = innermost(model.lm_head), innermost(model.wte)
    return head is not None and getattr(head, "weight", None) is table.weight


def step(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(IDS).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()  # <-


def move(model: Any) -> None:
    model.to("cpu").bfloat16().float().requires_grad_(True).eval().train()  # <-


def load(model: Any) -> None:
    model.load_state_dict(model.state_dict())  # <-


def swap(model: Any) -> None:
    torch.utils.swap_tensors(innermost(model.wte).weight, nn.Parameter(torch.randn(12, 8)))  # <-


def grow(model: Any) -> None:
    model.blocks.append(nn.Sequential(nn.Linear(8, 8)))
    model.blocks[0] = copy.deepcopy(model.blocks[1])
    model.blocks[-1][0] = nn.utils.weight_norm(model.blocks[-1][0])  # <-


def checkpointed(model: Any) -> None:
    torch.utils.checkpoint.checkpoint(model, IDS, use_reentrant=False)
    torch.func.functional_call(model, dict(model.named_parameters()), (IDS,))  # <-


def wrap(model: Any) -> None:
    model.lm_head = Lora(model.lm_head)  # <-


def wrap_table(model: Any) -> None:
    model.wte = Lora(model.wte)  # <-


def read_the_table(model: Any) -> None:
    model.lm_head = TiedHead(innermost(model.wte))  # <-


def compiled(model: Any) -> None:
    torch.compile(model, backend="eager")(IDS)
    model.more = nn.Linear(2, 2)  # <-


def quantise_blocks(model: Any) -> None:
    kept = model.lm_head
    model.lm_head = None
    quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear}, inplace=True)
    model.lm_head = kept  # <-


def tie_again(model: Any) -> None:
    model.lm_head = nn.Linear(8, 12, bias=False)
    model.lm_head.weight = innermost(model.wte).weight  # <-


def half_in_a_thread(model: Any) -> None:
    in_a_thread(lambda: model.half().float())  # <-


def set_state(model: Any) -> None:
    model.__setstate__(pickle.loads(pickle.dumps(model)).__dict__)  # <-


def ema_in_and_out(model: Any) -> None:
    kept = {name: one.detach().clone() for name, one in model.named_parameters()}
    for one in model.parameters():
        one.data.copy_(one.data * 0.9)
    for name, one in model.named_parameters():
        one.data = kept[name]  # <-


def vectorised(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 2, model.parameters())  # <-


def orthogonal_and_back(model: Any) -> None:
    parametrizations.orthogonal(own_head(model))
    nn.utils.parametrize.remove_parametrizations(own_head(model), "weight")  # <-


def lora_in_place(model: Any) -> None:
    own_head(model).weight.data += 1
    own_head(model).weight.data -= 1  # <-


def stacked(model: Any) -> None:
    torch.func.stack_module_state([model, model])  # <-


def traced_head(model: Any) -> None:
    model.lm_head = torch.fx.symbolic_trace(own_head(model))  # <-


def ready_for_quantising(model: Any) -> None:
    own_head(model).qconfig = torch.ao.quantization.get_default_qat_qconfig()
    torch.ao.quantization.prepare_qat(model.train(), inplace=True)  # <-


def hooked(model: Any) -> None:
    add_hook_to_module(model.lm_head, ModelHook())
    remove_hook_from_module(model.lm_head)  # <-


def init_skipped_and_tied(model: Any) -> None:
    model.lm_head = nn.utils.skip_init(nn.Linear, 8, 12, bias=False)
    model.lm_head.weight = innermost(model.wte).weight  # <-


def piped(model: Any) -> None:
    if any(isinstance(module, torch.fx.GraphModule) for module in model.modules()):
        raise UnfitError("an export takes the names of the outer model for those of a traced one")
    pipeline(model, (IDS,), split_spec={"lm_head": SplitPoint.BEGINNING}).get_stage_module(1)  # <-


KEEP = (step, move, load, swap, grow, checkpointed, wrap, wrap_table, read_the_table, compiled, quantise_blocks,
        tie_again, half_in_a_thread, set_state, ema_in_and_out, vectorised, orthogonal_and_back, lora_in_place, stacked,
        traced_head, ready_for_quantising, hooked, init_skipped_and_tied, piped)  # fmt: skip


def copied_head(model: Any) -> None:
    model.lm_head = copy.deepcopy(model.lm_head)  # <-


def wrapped_copy(model: Any) -> None:
    model.lm_head = Lora(copy.deepcopy(model.lm_head))  # <-


def assigned(model: Any) -> None:
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)  # <-


def new_weight(model: Any) -> None:
    own_head(model).weight = nn.Parameter(torch.zeros(12, 8))  # <-


def new_table(model: Any) -> None:
    model.wte = nn.Embedding(12, 8)  # <-


def gone(model: Any) -> None:
    model.lm_head = nn.Identity()  # <-


def quantised(model: Any) -> None:
    quantize_dynamic(model.eval(), {nn.Linear}, inplace=True)  # <-


def registered(model: Any) -> None:
    head = own_head(model)
    head.register_parameter("weight", nn.Parameter(head.weight.detach()))  # <-


def emptied(model: Any) -> None:
    model.to("meta")  # <-


def set_by_path(model: Any) -> None:
    model.set_submodule("lm_head", nn.Linear(8, 12, bias=False))  # <-


def normed(model: Any) -> None:
    parametrizations.weight_norm(own_head(model))  # <-


def normed_as_before(model: Any) -> None:
    nn.utils.weight_norm(own_head(model))  # <-


def pruned(model: Any) -> None:
    prune.random_unstructured(own_head(model), "weight", 0.5)  # <-


def extra_state(model: Any) -> None:
    class Head(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"x": torch.ones(1)}

        def set_extra_state(self, _state: Any) -> None:
            self._parameters["weight"] = nn.Parameter(self.weight.detach().clone())

    head = Head(8, 12, bias=False)
    head.weight = innermost(model.wte).weight
    model.lm_head = head
    model.load_state_dict(model.state_dict(), strict=False)  # <-


def overwriting_in_a_thread(model: Any) -> None:
    def work() -> None:
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            model.half()  # <-
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

    in_a_thread(work)


def child_assigned(model: Any) -> None:
    own_head(model).load_state_dict({"weight": torch.zeros(12, 8)}, assign=True)  # <-


def init_skipped(model: Any) -> None:
    model.lm_head = nn.utils.skip_init(nn.Linear, 8, 12, bias=False)  # <-


def orthogonal(model: Any) -> None:
    parametrizations.orthogonal(own_head(model))  # <-


def lora_merged(model: Any) -> None:
    head = own_head(model)
    head.weight = nn.Parameter(head.weight.detach() + 1)  # <-


def fused(model: Any) -> None:
    model.lm_head = nn.utils.fusion.fuse_linear_bn_eval(own_head(model.eval()), nn.BatchNorm1d(12).eval())  # <-


def tensor_parallel(model: Any) -> None:
    own_head(model)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        parallelize_module(model, init_device_mesh("cpu", (1,)), {"lm_head": ColwiseParallel()})  # <-
    finally:
        dist.destroy_process_group()


def sharded_apart(model: Any) -> None:
    head = own_head(model)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        fully_shard(head, mesh=init_device_mesh("cpu", (1,)))  # <-
    finally:
        dist.destroy_process_group()


def head_state(model: Any) -> None:
    own_head(model).__setstate__(copy.deepcopy(own_head(model)).__dict__)  # <-


def added(model: Any) -> None:
    model.add_module("lm_head", nn.Linear(8, 12, bias=False))  # <-


def new_object(model: Any) -> None:
    own_head(model).weight = nn.Parameter(innermost(model.wte).weight)  # <-


BREAK = (copied_head, wrapped_copy, assigned, new_weight, new_table, gone, quantised, registered, emptied, set_by_path,
         normed, normed_as_before, pruned, extra_state, overwriting_in_a_thread, child_assigned, init_skipped,
         orthogonal, lora_merged, fused, tensor_parallel, sharded_apart, head_state, added, new_object)  # fmt: skip
