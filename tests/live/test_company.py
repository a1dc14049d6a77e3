"""What a live module holds beside its own names: in optimizers, in plain lists, in other models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tie_kinds import KINDS, Listed, Pair, Param, truth
from torch import nn

from tiecheck.live.held_by_others import shared_across, tensors_in_optimizers
from tiecheck.live.live_facts import split_by_sharding
from tiecheck.live.module_graph import ModuleGraph
from tiecheck.live.registrations import Registrations, plain_references
from tiecheck.records.life import GroupPlace, HeldTensor, SharedAcross


def test_an_optimizer_holds_each_tensor_once_under_all_of_its_names() -> None:
    model = Param()
    adam = torch.optim.AdamW(model.parameters(), lr=0.5)
    held = tensors_in_optimizers(model, (adam,), ())
    assert [len(one.slots) for one in held] == [1] * len(list(model.parameters()))
    (tied,) = (one for one in held if len(one.names) > 1)
    (slot,) = tied.slots
    assert (slot.title, dict(slot.settings)["lr"], slot.matrix) == ("AdamW", "0.5", False)
    assert isinstance(slot, GroupPlace)
    foreign = nn.Linear(2, 2)
    adam.add_param_group({"params": foreign.parameters()})
    left = tensors_in_optimizers(model, (adam,), ())[len(held) :]
    assert left == tuple(HeldTensor((), tuple(p.shape), one.slots, False)
                         for p, one in zip(foreign.parameters(), left, strict=True))  # fmt: skip
    assert tensors_in_optimizers(model, (adam,), (foreign,)) == held
    assert all(not one.slots for one in tensors_in_optimizers(model, (), ()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_list_is_the_only_holder_without_a_registration(kind: type[Pair]) -> None:
    model = kind()
    found = plain_references(Registrations(model, buffers=True))
    assert [one.name for one in found] == (["reader.tied[0]"] if kind is Listed else [])
    for one in found:
        assert one.holder(model) is model.reader
        assert one.now(model) is one.tensor is model.emb.weight
        copied: Any = copy.deepcopy(model)
        assert one.now(copied) is copied.emb.weight
        del copied.reader.tied[0]
        assert one.now(copied) is None
        assert truth(model) == "I"


def test_a_model_shares_tensors_memory_or_values_with_another() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    (whole,) = shared_across(model, (model,))
    names = ("0.bias", "0.weight", "1.bias", "1.weight")
    assert whole == SharedAcross(0, "Sequential", "whole", names, True)
    part = nn.Sequential(model[0], nn.Linear(4, 4))
    assert [(one.form, one.names) for one in shared_across(model, (part,))] == [("object", names[:2])]
    viewed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    viewed[1].weight = nn.Parameter(model[1].weight.detach())
    assert [(one.form, one.names) for one in shared_across(model, (viewed,))] == [("memory", ("1.weight",))]
    assert shared_across(model, (copy.deepcopy(model),)) == ()
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert [(one.form, one.other) for one in shared_across(frozen, (part, copy.deepcopy(frozen)))] == [("copies", 1)]


def test_what_was_never_sharded_is_not_split_by_it() -> None:
    assert split_by_sharding(ModuleGraph(Param())) == ()
