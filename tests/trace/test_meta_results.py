"""What an operation gives on meta is known the second time, and is what torch says, else torch is asked again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import tiecheck
from tiecheck.trace.meta_results import MetaResults


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


class Counted:
    """A function that counts its calls."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func, self.calls = func, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.func(*args, **kwargs)


def both(known: MetaResults, name: str, func: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What is said, and what torch says."""
    with torch.no_grad():
        return known.run(name, func, args, kwargs), func(*args, **kwargs)


def form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, type(tensor)


X, TURNED, WHOLE = meta(2, 3, 4), meta(3, 2, 4).transpose(0, 1), meta(2, 3, 4, dtype=torch.long)
PURE: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    *((torch.mul, pair) for pair in ((X, 2), (X, TURNED), (WHOLE, 2), (WHOLE, 2.0), (WHOLE, True), (WHOLE, X))),
    *((torch.add, pair) for pair in ((TURNED, TURNED), (TURNED, X), (X.double(), X))),
    *((torch.sum, args) for args in ((X,), (X, -1), (X, 0), (X, (0, 1)), (WHOLE, 0))),
    *((F.linear, args) for args in ((X, meta(5, 4)), (X, meta(5, 4), meta(5)), (TURNED, meta(5, 4)))),
    *((torch.cat, args) for args in (([X, X], 0), ([X, X], 1), ([X, TURNED], 0), ([TURNED, TURNED], 0))),
    *((F.scaled_dot_product_attention, (q, q, q)) for q in (meta(1, 2, 3, 4), meta(1, 3, 2, 4).transpose(1, 2))),
    (F.embedding, (WHOLE, meta(9, 4))),
    (torch.einsum, ("bld,vd->blv", X, meta(5, 4))),
]


def test_what_is_known_is_what_torch_says() -> None:
    known = MetaResults()
    for _ in range(2):
        for func, args in PURE:
            said, right = both(known, func.__name__, func, *args)
            assert form(said) == form(right), (func, args)


def test_torch_is_asked_once_for_each_form() -> None:
    known, func = MetaResults(), Counted(torch.mul)
    with torch.no_grad():
        for args in ((X, X), (X, meta(2, 3, 4)), (X, X), (X, TURNED), (X, 2), (X, 2.0), (X, 2)):
            known.run("mul", func, args, {})
    assert func.calls == 4


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (torch.add, (meta(2, 3), torch.ones(()))),
        (Tensor.add_, (meta(2, 3), 1)),
        (Tensor.relu_, (meta(2, 3),)),
        (Tensor.diagonal, (meta(2, 3),)),
        (torch.sort, (meta(2, 3),)),
        (F.relu, (meta(2, 3), True)),
    ],
    ids=["a real tensor", "add_", "relu_", "a view", "several", "in place"],
)
def test_what_more_than_the_form_decides_is_asked_each_time(func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    known, counted = MetaResults(), Counted(func)
    with torch.no_grad():
        outs = [known.run("any", counted, args, {}) for _ in range(2)]
    assert counted.calls == 2
    assert type(outs[1]) is type(func(*args))


def test_gradients_defaults_and_transforms_are_no_other_call_s() -> None:
    known, weight = MetaResults(), torch.nn.Parameter(meta(4, 4))
    with torch.no_grad():
        assert not known.run("mul", torch.mul, (weight, 2), {}).requires_grad
        assert known.run("div", torch.div, (WHOLE, 2), {}).dtype is torch.float32
    assert known.run("mul", torch.mul, (weight, 2), {}).requires_grad
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            assert known.run("div", torch.div, (WHOLE, 2), {}).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        known.run("mul", torch.mul, (meta(3, 4), 2), {})
        out = torch.vmap(lambda row: known.run("mul", torch.mul, (row, 2), {}))(X)
    assert out.shape == X.shape


def test_what_raises_raises_again() -> None:
    known = MetaResults()
    for _ in range(2):
        with torch.no_grad(), pytest.raises(RuntimeError):
            known.run("linear", F.linear, (X, meta(5, 7)), {})


SIZES = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 64}
CONFIGS = [
    transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8),
    transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2),
    transformers.T5Config(d_model=32, num_layers=3, d_ff=48, d_kv=8, num_heads=4, vocab_size=64),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_a_trace_is_the_same_when_torch_is_always_asked(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    with torch.device("meta"):
        model = classes[config.is_encoder_decoder].from_config(copy.deepcopy(config)).eval()
    uses = tiecheck.uses(model)
    monkeypatch.setattr(MetaResults, "run", lambda _, __, func, args, kwargs: func(*args, **kwargs))
    assert tiecheck.uses(model) == uses
