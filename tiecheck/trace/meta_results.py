"""Results of torch's operations on meta, where nothing but forms and numbers decides: asked of torch once for each.

Torch 2.13 works a product of two meta tensors out in Python, in half a millisecond; an empty tensor of the same form
takes three microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tiecheck.trace.operations import PARTS, SAME

_CHEAP = SAME | PARTS
"""Operations that mostly give a view, which is never known beforehand."""
_NUMBERS = frozenset({bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.memory_format})


class MetaResults:
    """Results of operations on meta tensors, by the forms of what goes in."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[object, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}

    def run(self, name: str, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what a call gives: torch's own answer, or a new tensor of the form that it had for such arguments.

        What is a view, is written in place, learns, or stands under a transform of `torch.func` is torch's to answer.
        """
        key = None
        if name not in _CHEAP and not torch.is_grad_enabled() and not _transformed():
            key = _form((torch.get_default_dtype(), args, tuple(kwargs.items())))
        if key is None:
            return func(*args, **kwargs)
        key = func, key
        if key in self._known:
            shape, stride, dtype = self._known[key]
            return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        out = func(*args, **kwargs)
        given = any(out is value for value in (*args, *kwargs.values()))
        if type(out) is Tensor and _form(out) is not None and not out._is_view() and not given:
            self._known[key] = out.shape, out.stride(), out.dtype
        return out


def _form(value: Any) -> Any:
    """Return what decides of an argument what comes out, hashable; None where that is more than its form."""
    if isinstance(value, Tensor):
        plain = type(value) in {Tensor, nn.Parameter} and value.is_meta and value.layout is torch.strided
        return (value.shape, value.stride(), value.dtype) if plain else None
    if type(value) in {tuple, list, torch.Size}:
        forms = tuple(map(_form, value))
        return None if None in forms else forms
    return (type(value), value) if type(value) in _NUMBERS else None


def _transformed() -> bool:
    """Return True inside `vmap`, `grad` and the like, whose tensors look like plain ones (torch 2.13)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def without_transform(tensor: Tensor) -> Tensor:
    """Return what a tensor of a transform of `torch.func` stands for; any other as it is (torch 2.13)."""
    wrapped = _transformed() and torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return torch._C._functorch.get_unwrapped(tensor) if wrapped else tensor


def answered_on_meta(name: str, tensor: Tensor) -> Any:
    """Return what a question about values that are not there is answered with."""
    if name in {"bool", "contains", "equal", "allclose", "is_nonzero"}:
        return False
    if name in {"tolist", "numpy"}:
        return getattr(torch.ones(tensor.shape, dtype=tensor.dtype), name)()
    if name == "format":  # as part of a name
        return "0"
    if name == "item" and tensor.dtype is torch.bool:
        return False
    return 1.0 if name == "float" or tensor.is_floating_point() else 1


def in_bfloat16(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a product that meta has for bfloat16 alone (`grouped_mm`, torch 2.13)."""
    values = [a.to(torch.bfloat16) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    return func(*values, **kwargs).to(args[0].dtype)
