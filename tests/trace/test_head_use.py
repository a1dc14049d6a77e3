"""The head at work: the product with the tied tensor is seen, with what was multiplied before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tiecheck.trace.head_use import HeadTrace, is_norm_layer


@pytest.mark.parametrize(
    "product",
    [
        F.linear,
        lambda x, w: x @ w.t(),
        lambda x, w: torch.matmul(x, w.transpose(0, 1).contiguous()),
    ],
    ids=["linear", "t", "transpose"],
)
def test_a_product_with_the_weight_is_a_use(product) -> None:
    weight, x = torch.randn(8, 4), torch.randn(2, 4)
    with HeadTrace(weight) as trace:
        out = product(x, weight)
    (use,) = trace.uses
    assert use.product is out
    assert use.hidden is x
    assert (use.weight_factor, use.norm_factor) == (1.0, None)


def test_factors_on_the_weight_and_after_a_norm_are_followed() -> None:
    weight, x = torch.randn(8, 4), torch.randn(2, 4)
    with HeadTrace(weight) as trace:
        trace.normalised(x)
        F.linear(x * 0.5, weight * 2)
    (use,) = trace.uses
    assert use.weight_factor == 2.0
    assert use.norm_factor == 0.5


def test_another_product_is_none() -> None:
    with HeadTrace(torch.randn(8, 4)) as trace:
        F.linear(torch.randn(2, 4), torch.randn(8, 4))
    assert trace.uses == []
    assert is_norm_layer(torch.nn.LayerNorm(4))
    assert not is_norm_layer(torch.nn.Linear(4, 4))
