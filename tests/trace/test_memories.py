"""Which parameters a pass made itself, by the memory they lie in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiecheck.trace.memories import Memories


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_the_pass_made_is_told_from_what_was_there(device: str) -> None:
    memories, weight = Memories(), nn.Parameter(torch.empty(8, 4, device=device))
    out, there = torch.empty(3, device=device), nn.Parameter(torch.empty(8, 4, device=device))
    memories.note_source(weight, weight)
    memories.note_made([out])
    over = nn.Parameter(weight.detach())
    assert memories.is_of_the_pass(over)
    assert memories.source_under(over) is weight
    assert memories.is_of_the_pass(nn.Parameter(out))
    assert memories.source_under(nn.Parameter(out)) is None
    assert not memories.is_of_the_pass(there)
    assert not memories.is_of_the_pass(nn.Parameter(weight.detach()[:2])), "a part is no source"
