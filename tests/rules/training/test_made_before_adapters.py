"""TIE707 of an optimizer made before PEFT wrapped the model, against one step of it, for adapters of any kind."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from rule_failures import llama

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = [
    kind
    for _, kind in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items())
    if "target_modules" in {one.name for one in fields(kind)}
]
"""Configs of the adapters that are put into layers."""
PROMPTS = [peft.PromptTuningConfig, peft.PrefixTuningConfig]


def refused(kind: Any, modules: list[str]) -> str | None:
    """What PEFT or a step of it says against a kind on so small a model; None where it runs."""
    try:
        step(wrapped(llama(), kind, modules))
    except (ValueError, TypeError, ImportError, AttributeError, AssertionError, RuntimeError) as error:
        return type(error).__name__
    return None


def wrapped(model: Any, kind: Any, modules: list[str]) -> Any:
    if kind in PROMPTS:
        return peft.get_peft_model(model, kind(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    return peft.get_peft_model(model, kind(target_modules=modules))


def step(model: Any) -> None:
    ids = torch.arange(6)[None]
    model(input_ids=ids, labels=ids).loss.backward()


@pytest.mark.parametrize("seed", range(16))
def test_it_is_told_where_a_step_changes_nothing(seed: int) -> None:
    draw = random.Random(seed)
    modules = draw.choice((["q_proj"], ["q_proj", "v_proj"], ["down_proj"]))
    kinds = draw.sample([*KINDS, *PROMPTS], len(KINDS))
    kind = peft.LoraConfig if seed == 0 else next(kind for kind in kinds if refused(kind, modules) is None)
    model, early = llama(tied=draw.random() < 0.5), draw.random() < 0.5
    made = draw.choice((torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam))
    optimizer = made(model.parameters(), lr=0.1)
    whole = wrapped(model, kind, modules)
    if not early:
        optimizer = made(draw.choice((whole.parameters(), [p for p in whole.parameters() if p.requires_grad])), lr=0.1)
    before = [parameter.detach().clone() for parameter in whole.parameters()]
    step(whole)
    optimizer.step()
    still = all(map(torch.equal, before, whole.parameters()))
    assert still is early
    codes = {finding.code for finding in tiecheck.check(whole, optimizer=optimizer).findings}
    assert ("TIE707" in codes) is early, kind
    mended = made(whole.parameters(), lr=0.1)  # what the finding says
    mended.step()
    assert not all(map(torch.equal, before, whole.parameters()))
    assert "TIE707" not in {finding.code for finding in tiecheck.check(whole, optimizer=mended).findings}
