"""The head at work: the product with the tied tensor is seen, with what was multiplied before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tiecheck.trace.reads import ReadTrace, is_norm_layer


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
    with ReadTrace([weight], keep=weight) as trace:
        out = product(x, weight)
    (use,) = trace.heads
    assert use.product is out
    assert use.hidden is x
    assert (use.before, use.norm) == (1.0, None)


def test_factors_on_the_weight_and_after_a_norm_are_followed() -> None:
    weight, x = torch.randn(8, 4), torch.randn(2, 4)
    with ReadTrace([weight], keep=weight) as trace:
        trace.normalised(x)
        F.linear(x * 0.5, weight * 2)
    (use,) = trace.heads
    assert use.before == 2.0
    assert use.norm == 0.5


def test_another_product_is_none() -> None:
    weight = torch.randn(8, 4)
    with ReadTrace([weight], keep=weight) as trace:
        F.linear(torch.randn(2, 4), torch.randn(8, 4))
    assert trace.heads == []
    assert is_norm_layer(torch.nn.LayerNorm(4))
    assert not is_norm_layer(torch.nn.Linear(4, 4))
