"""TIE707 of an optimizer that was made before PEFT wrapped the model, against one step of it."""

from __future__ import annotations

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rule_failures import llama

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("seed", range(8))
def test_it_is_told_where_a_step_changes_nothing(seed: int) -> None:
    draw = random.Random(seed)
    model, early = llama(tied=draw.random() < 0.5), draw.random() < 0.5
    made = draw.choice((torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam))
    optimizer = made(model.parameters(), lr=0.1)
    modules = draw.choice((["q_proj"], ["q_proj", "v_proj"], ["down_proj"]))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=modules))
    if not early:
        optimizer = made(
            draw.choice((wrapped.parameters(), [p for p in wrapped.parameters() if p.requires_grad])), lr=0.1
        )
    before = [parameter.detach().clone() for parameter in wrapped.parameters()]
    ids = torch.arange(6)[None]
    wrapped(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    still = all(map(torch.equal, before, wrapped.parameters()))
    assert still is early
    codes = {finding.code for finding in tiecheck.check(wrapped, optimizer=optimizer).findings}
    assert ("TIE707" in codes) is early
    mended = made(wrapped.parameters(), lr=0.1)  # what the finding says
    mended.step()
    assert not all(map(torch.equal, before, wrapped.parameters()))
    assert "TIE707" not in {finding.code for finding in tiecheck.check(wrapped, optimizer=mended).findings}
