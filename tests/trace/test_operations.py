"""The trail of a value through torch's own operations: held against what torch makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tiecheck.trace.operations import argument, is_lookup, kind_of, summed_over, turns
from tiecheck.trace.trails import NORMALISED, Call, Trail, factor_of, tensors_in, value_after, weight_after

WEIGHT, IDS, X = torch.randn(8, 4), torch.tensor([1, 2]), torch.randn(2, 4)


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value else None


def call_of(name: str, out: torch.Tensor, trail: Trail, *args: Any) -> Call:
    tensors = list(tensors_in(args))
    return Call(name, args, {}, tensors, [trail, *(Trail("value") for _ in tensors[1:])], [out])


def test_a_function_is_known_by_its_plain_name() -> None:
    assert kind_of(torch.Tensor.__matmul__).name == "matmul"
    assert kind_of(F.layer_norm).begins
    assert not kind_of(F.linear).begins
    assert kind_of(torch.Tensor.item).asks
    assert (kind_of(torch.Tensor.T.__get__).name, kind_of(torch.Tensor.T.__get__).getter) == ("T", False)
    assert kind_of(torch.Tensor.shape.__get__).getter
    assert (argument((1,), {}, (0, "a")), argument((), {"a": 2}, (0, "a")), argument((), {}, (0, "a"))) == (1, 2, None)


@pytest.mark.parametrize(
    ("name", "args", "looked_up"),
    [
        ("embedding", (IDS, WEIGHT), True),
        ("embedding", (IDS, torch.randn(8, 4)), False),
        ("index_select", (WEIGHT, 0, IDS), True),
        ("index_select", (WEIGHT, 1, IDS), False),
        ("getitem", (WEIGHT, IDS), True),
        ("getitem", (WEIGHT, 0), False),
    ],
)
def test_rows_are_looked_up_by_index_tensors(name: str, args: tuple[Any, ...], looked_up: bool) -> None:
    assert is_lookup(name, WEIGHT, args, {}) is looked_up


@pytest.mark.parametrize(
    ("name", "args", "rows"),
    [
        ("linear", (X, WEIGHT), False),
        ("matmul", (torch.randn(2, 8), WEIGHT), True),
        ("matmul", (WEIGHT, torch.randn(4, 2)), False),
        ("einsum", ("bd,vd->bv", X, WEIGHT), False),
        ("einsum", ("bv,vd->bd", torch.randn(2, 8), WEIGHT), True),
    ],
)
def test_a_product_sums_over_columns_or_rows(name: str, args: tuple[Any, ...], rows: bool) -> None:
    function: Callable[..., torch.Tensor] = {"linear": F.linear, "matmul": torch.matmul, "einsum": torch.einsum}[name]
    assert function(*args).numel()  # torch takes it
    found = summed_over(name, WEIGHT, args, {})
    assert found is not None
    assert found[0] is rows
    assert found[1] is not WEIGHT
    assert summed_over(name, torch.randn(8, 4), args, {}) is None or name == "einsum"


@pytest.mark.parametrize("swaps", [("t",), ("transpose", 0, 1), ("transpose", 0, 0), ("permute", 1, 0)])
def test_a_turned_weight_stays_the_weight(swaps: tuple[Any, ...]) -> None:
    name, *order = swaps
    out = getattr(WEIGHT, name)(*order)
    turned = out.shape != WEIGHT.shape
    assert turns(name, WEIGHT, (WEIGHT, *order), out) is turned
    trail = weight_after(call_of(name, out, Trail("weight", (0,)), WEIGHT, *order), number)
    assert trail == Trail("weight", (0,), 1.0, turned)


def test_factors_multiply_and_an_unknown_one_stays_unknown() -> None:
    call = call_of("div", WEIGHT / 4, Trail("weight", (0,), 2.0), WEIGHT, 4)
    assert factor_of(call, WEIGHT, number) == 0.25
    assert weight_after(call, number) == Trail("weight", (0,), 0.5)
    assert factor_of(call_of("div", 4 / WEIGHT, Trail("weight"), 4, WEIGHT), WEIGHT, number) is None
    assert Trail("value", (), 2.0).times(3.0).factor == 6.0
    assert Trail("value", (), None).times(3.0).factor is Trail("value", (), 2.0).times(None).factor is None


def test_a_norm_begins_a_trail_and_a_sum_of_two_ends_it() -> None:
    assert value_after(call_of("layer_norm", X, Trail("value"), X), number) == (NORMALISED, None)
    halved = call_of("mul", X * 0.5, NORMALISED, X, 0.5)
    assert value_after(halved, number) == (NORMALISED.times(0.5), 0)
    assert value_after(call_of("add", X + X, NORMALISED, X, X.clone()), number) == (Trail("value"), None)
