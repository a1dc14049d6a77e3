"""Gradients of each use of a tied tensor, held against autograd's own; and the names that a pass comes by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tiecheck.live.registrations import Registrations
from tiecheck.records.uses import TensorGradient, UseGradient
from tiecheck.trace.gradients import compare_gradients
from tiecheck.trace.trails import watched_names


class Net(nn.Module):
    """An embedding and a head over one parameter."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.wte, self.head, self.cut = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False), cut
        self.head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weight = self.head.weight
        return F.linear(self.wte(ids), weight.detach() if self.cut else weight)


@pytest.mark.parametrize("cut", [False, True])
def test_each_use_has_its_gradient_and_a_detached_one_has_none(cut: bool) -> None:
    model = Net(cut=cut)
    found = compare_gradients(model)
    assert isinstance(found, tuple)
    (one,) = found
    assert isinstance(one, TensorGradient)
    assert all(isinstance(use, UseGradient) for use in one.uses)
    assert one.names == ("head.weight", "wte.weight")
    norms = {use.role: use.norm for use in one.uses}
    assert norms["embedding"]
    assert bool(norms["linear"]) is not cut
    assert [use.detached for use in one.uses if use.role == "linear"] == [cut]
    assert one.off == pytest.approx(0, abs=1e-5)
    assert model.wte.weight.grad is None


def test_a_parameter_is_told_by_the_slot_that_was_asked_for_it_last() -> None:
    model = Net()
    before = [(id(module._parameters), id(module._modules)) for module in model.modules()]
    with watched_names(Registrations(model, buffers=False)) as names_of:
        weight = model.wte.weight
        assert names_of(weight) == ("wte.weight",)
        assert model.head.weight is weight
        assert names_of(weight) == ("head.weight",)
        assert names_of(torch.zeros(1)) == ()
    assert [(id(module._parameters), id(module._modules)) for module in model.modules()] == before
