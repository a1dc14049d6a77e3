"""The stand-ins of a rehearsed load: each replaces what transformers really has, and is gone when the load ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import modeling_utils

from tiecheck.live.transformers.rehearse_patches import object_at, owner_of, patched, patches_of
from tiecheck.live.transformers.rehearse_watch import Watch


@given(st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1), st.booleans())
def test_attributes_are_replaced_and_put_back_whatever_happens(before: dict[str, int], fails: bool) -> None:
    owner = SimpleNamespace(**before)
    patches = [(owner, name, "stand-in") for name in before] + [(owner, next(iter(before)), "a second one")]
    try:
        with patched(patches):
            assert vars(owner) == dict.fromkeys(before, "stand-in") | {next(iter(before)): "a second one"}
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert vars(owner) == before


def test_every_stand_in_is_for_a_name_that_the_installed_transformers_has(tmp_path: Path) -> None:
    watch = Watch(str(tmp_path), True, modeling_utils)
    newer = hasattr(modeling_utils.PreTrainedModel, "_move_missing_keys_from_meta_to_device")
    patches = patches_of(watch, modeling_utils, newer)
    before = [getattr(owner, name) for owner, name, _ in patches]
    with patched(patches):
        assert all(getattr(owner, name) is not was for (owner, name, _), was in zip(patches, before, strict=True))
    assert [getattr(owner, name) for owner, name, _ in patches] == before


def test_a_name_is_followed_through_modules_to_parameter_or_buffer() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    state = model.state_dict(keep_vars=True)
    assert all(object_at(model, name) is state[name] for name in names)
    assert owner_of(model, "1.running_mean") == (model[1], "running_mean")
    for lost in ("2.weight", "0.gone", "0.weight.more", "0"):
        assert object_at(model, lost) is None


@pytest.mark.parametrize("equal", [True, False, None])
def test_meta_tensors_are_equal_by_what_they_stand_for_and_real_ones_by_torch(tmp_path: Path, equal) -> None:
    watch = Watch(str(tmp_path), True, modeling_utils)
    watch.equal = lambda *_: equal  # type: ignore[method-assign]
    one, other = torch.empty(2, device="meta"), torch.empty(2, device="meta")
    newer = hasattr(modeling_utils.PreTrainedModel, "_move_missing_keys_from_meta_to_device")
    with patched(patches_of(watch, modeling_utils, newer)):
        assert torch.equal(one, other) is bool(equal)
        assert torch.equal(torch.ones(2), torch.ones(2))
        assert not torch.equal(torch.ones(2), torch.zeros(2))
    assert watch.undecided == ([(id(one), id(other))] if equal is None else [])
