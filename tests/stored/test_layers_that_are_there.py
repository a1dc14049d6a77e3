"""A layer that is there without the member of a tie that it has elsewhere is no pass."""

from __future__ import annotations

import random

import pytest

from tiecheck.rules.cases import sharded_checkpoint
from tiecheck.stored.groups import build_groups
from tiecheck.tables.architectures import load_architecture

KNOWN = load_architecture("DiffusionGemmaModel", "diffusion_gemma")


@pytest.mark.parametrize("seed", range(4))
def test_a_lost_pair_of_one_layer_is_a_group_of_its_own(seed: int) -> None:
    rng = random.Random(seed)
    pairs = [tie.names for tie in KNOWN.ties if ".layers.0." in tie.names[0] or ".layers.1." in tie.names[0]]
    gone = rng.choice(pairs)
    there = tuple(name for names in pairs if names != gone for name in names)
    found = build_groups(None, KNOWN, sharded_checkpoint({"one": there}), "never")
    assert isinstance(found, tuple)
    (lost,) = [group for group in found if group.names == gone]
    assert (lost.declared, lost.stored) == (None, "unknown")
    assert not any(".layers.7." in name for group in found for name in group.names)  # which is not there at all
