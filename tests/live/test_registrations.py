"""Every place where a module registers a tensor."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from tiecheck.files.local import paused_collector
from tiecheck.live.registrations import Registrations, plain_references


def test_a_tensor_that_stands_in_two_places_is_one_repeat() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(8, 4), "head": nn.Linear(4, 8)})
    model["head"].weight = model["emb"].weight
    places = Registrations(model, buffers=False)
    ((first, both),) = places.repeats.items()
    assert places.objects[first] is model["emb"].weight
    assert len(both) == 2
    assert places.names_of(model["emb"].weight) == ("emb.weight", "head.weight")


def test_buffers_are_listed_where_they_are_asked_for() -> None:
    model = nn.BatchNorm1d(2)
    with_buffers = Registrations(model, buffers=True)
    assert {*with_buffers.attributes} == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert len(Registrations(model, buffers=False).objects) == with_buffers.boundary == 2


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError):
        Registrations(torch.zeros(1), buffers=False)  # type: ignore[arg-type]


def test_the_collector_goes_on_as_before() -> None:
    with paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_plain_container_is_seen_before_torch_has_set_its_own_attributes_and_after() -> None:
    weight = nn.Parameter(torch.ones(2))

    class Early(nn.Module):
        def __init__(self) -> None:
            self.early = [weight]
            super().__init__()
            self.late, self._private, self.later = (weight,), [weight], {"w": weight}

    root = nn.Module()
    root.weight, root.child = weight, Early()
    found = [one.name for one in plain_references(Registrations(root, buffers=False))]
    assert found == ["child.early[0]", "child.late[0]", "child.later['w']"]
