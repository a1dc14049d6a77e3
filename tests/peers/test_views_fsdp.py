"""FSDP's views held against what FSDP2, and the flat parameter of FSDP1, really share."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import distributed, nn
from zoo_of_ties import EMB_LIN, ROWS, by_column, row_01_assigned_weight

from tiecheck.peers.views.registry import ask_tools

pytestmark = pytest.mark.filterwarnings("ignore")

REFUSES = {
    "fully_shard": {
        "04_one_block_three_times": "containers that do not implement forward",
        "08_transposed": "non-contiguous parameters",
        "09e_interleaved_columns": "non-contiguous parameters",
        "09f_expanded_scalar": "non-contiguous parameters",
        "14a_lazy_untied": "uninitialized parameter",
        "14b_lazy_tied": "uninitialized parameter",
        "22d_scripted": "not supported on ScriptModules",
        "24_registered_cycle": "maximum recursion depth exceeded",
    },
    "FullyShardedDataParallel": {
        "09e_interleaved_columns": "out of bounds for storage",
        "09f_expanded_scalar": "out of bounds for storage",
        "14a_lazy_untied": "uninitialized parameter",
        "14b_lazy_tied": "uninitialized parameter",
        "22d_scripted": "cannot delete methods or parameters of a script module",
        "24_registered_cycle": "maximum recursion depth exceeded",
        "25c_one_quantised_tensor": "maximum recursion depth exceeded",
        "25d_two_parameters_over_one_quantised_tensor": "maximum recursion depth exceeded",
    },
}
"""Rows that each refuses, and why: on the cycle alone has that to do with the tie."""


@pytest.fixture
def alone(tmp_path):
    """A process group of one."""
    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    yield
    distributed.destroy_process_group()


def ordered(groups: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted(tuple(sorted(set(group))) for group in groups if len(set(group)) > 1))


def sharded(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The groups that FSDP2 notes when it shards a whole model as one unit."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.fsdp._fully_shard._fsdp_state import _get_module_fsdp_state

    fully_shard(model)
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(f"{path}." if path else "")
    found = []
    for group in _get_module_fsdp_state(model)._fsdp_param_groups:
        for parameter in group.fsdp_params:
            noted = parameter._module_info
            places = [(noted.module, noted.param_name)]
            places += zip(noted.shared_modules, noted.shared_param_names, strict=True)
            found.append([path + name for module, name in places for path in paths[id(module)]])
    return ordered(found)


def flattened(model: nn.Module):
    """FSDP1's flat parameter of a whole model; the wrapper itself refuses to run without an accelerator."""
    from torch.distributed.fsdp._flat_param import FlatParamHandle, HandleShardingStrategy

    strategy, device, group = HandleShardingStrategy.FULL_SHARD, torch.device("cpu"), distributed.group.WORLD
    return FlatParamHandle(
        list(model.parameters()), model, device, strategy, False, None, None, False, group, use_orig_params=False
    )


def flat(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The groups that FSDP1 notes."""
    found: dict[str, set[str]] = {}
    for info in flattened(model).flat_param._shared_param_infos:
        kept = ".".join(filter(None, (info.prim_module_name, info.prim_param_name)))
        found.setdefault(kept, {kept}).add(".".join(filter(None, (info.module_name, info.param_name))))
    return ordered(found.values())


@pytest.mark.parametrize(("function", "shard"), [("fully_shard", sharded), ("FullyShardedDataParallel", flat)])
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.group])
def test_one_unit_on_the_root(alone, name, function, shard):
    model = ROWS[name].build()
    view = by_column(ask_tools(model))["torch", function, "2.13"]
    if name in REFUSES[function]:
        with pytest.raises(Exception, match=REFUSES[function][name]):
            shard(model)
        assert (view.error is not None) == (name == "24_registered_cycle")
    else:
        assert (view.error, view.groups) == (None, shard(model))


def test_a_wrapped_model_shows_what_its_flat_parameters_note(alone):
    class FullyShardedDataParallel(nn.Module):
        """As FSDP1 lays itself around a module, with its real flat parameter."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._fsdp_wrapped_module = module
            self._handle = flattened(module)
            self.register_parameter("_flat_param", self._handle.flat_param)

        def state_dict(self, *args, **kwargs):
            raise AssertionError("it would wait for the other ranks")

    model = nn.Module()
    model.inner = FullyShardedDataParallel(row_01_assigned_weight())
    views = ask_tools(model, run=True)
    names = tuple(f"inner.{name}" for name in EMB_LIN)
    assert by_column(views)["torch", "FullyShardedDataParallel", "2.13"].groups == (names,)
    saver = by_column(views)["safetensors", "save_model", "0.8"]
    assert saver.error == "not run: an FSDP1 module's state_dict() waits for every rank"
