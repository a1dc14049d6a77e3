"""What models of transformers say of themselves: their heads, their declared keys, and their parameters."""

from __future__ import annotations

import pytest
import torch
from tiny_models import SMALL, built
from torch import nn

from tiecheck.live.parameter_counts import count_live
from tiecheck.live.transformers.rewritten_keys import weight_of
from tiecheck.live.transformers.tied_weights_keys import class_problems, flag_of


@pytest.mark.parametrize("name", SMALL)
def test_the_getters_of_a_tied_model_return_one_weight(name: str) -> None:
    model = built(name)
    head = weight_of(model, "get_output_embeddings")
    assert head is weight_of(model, "get_input_embeddings") is not None
    assert flag_of(model) is True
    assert class_problems(type(model)) == ()


def test_what_has_no_getter_has_no_weight() -> None:
    assert weight_of(nn.Linear(2, 2), "get_output_embeddings") is None
    assert flag_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("name", SMALL)
def test_each_memory_is_counted_once(name: str) -> None:
    model = built(name)
    counts = count_live(model)
    assert counts.unique.elements == model.num_parameters()
    every = sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False))
    assert every > counts.unique.elements


def test_a_broken_tie_is_counted_twice_and_expected_once() -> None:
    model = built("LlamaForCausalLM")
    whole = count_live(model).unique.elements
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    counts = count_live(model)
    assert counts.unique.elements == whole + model.lm_head.weight.numel()
    assert counts.expected.elements == whole
