"""Watching one forward pass: where the tied tensor serves as the head, what feeds it, what scales its product.

Works on meta as well as on real weights, since only the calls are looked at and never a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tiecheck.files.limits import account

_PRODUCTS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"})
_SCALES = frozenset({"mul", "multiply", "div", "divide", "true_divide"})
_NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm"})
_PARTS = frozenset({"getitem", "narrow", "index_select", "squeeze", "unsqueeze"})
_CASTS = frozenset({"bfloat16", "cpu", "cuda", "double", "float", "half", "to", "type", "type_as"})
_SHAPES = frozenset(
    {"expand", "flatten", "movedim", "permute", "reshape", "t", "transpose", "unflatten", "view", "view_as"}
)
_SAME = _CASTS | _SHAPES | {"alias", "clone", "contiguous", "detach", "dropout", "get"}
_QUESTIONS = frozenset({"item", "__bool__", "__contains__", "__int__"})
_WEIGHT = "weight"
_NORM = "norm"


class HeadUse(NamedTuple):
    """One product of something with the tied tensor: the head at work."""

    hidden: torch.Tensor
    """Tensor that was multiplied, shape (..., width)."""
    product: torch.Tensor
    """The result, shape (..., vocabulary), bias included where the call adds it."""
    weight_factor: float
    """Factor that the weight was multiplied by before."""
    norm_factor: float | None
    """Factor between a normalisation layer's output and `hidden`; None if it does not come from one."""


class _Traced(NamedTuple):
    tensor: torch.Tensor  # held, so that its id stays its own
    origin: str | int
    factor: float


class HeadTrace(TorchFunctionMode):
    """Follows three things through a forward pass: the tied weight, normalised values, the head's product.

    A value is followed through views, casts, parts, dropout and multiplication by a number, and no further.
    A question about values (is any token padding?) is answered by no on meta, where there are none.
    """

    def __init__(self, tied: torch.Tensor) -> None:
        super().__init__()
        self.uses: list[HeadUse] = []
        self.lost: str | None = None
        self._vocabulary, self._width = tied.shape
        self._traced: dict[int, _Traced] = {id(tied): _Traced(tied, _WEIGHT, 1.0)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call and look at what it did."""
        del types
        kwargs = kwargs or {}
        account().check_time()
        name = getattr(func, "__name__", "")
        if name in _QUESTIONS and args[0].is_meta:
            return False
        out = func(*args, **kwargs)
        name = name.strip("_")
        if isinstance(out, torch.Tensor) or name == "setitem":
            self._see(name, (*args, *kwargs.values()), out)
        return out

    def normalised(self, out: object) -> None:
        """Note that a value came out of a normalisation layer."""
        if isinstance(out, torch.Tensor):
            self._note(out, _NORM, 1.0)

    def reached(self, logits: torch.Tensor) -> tuple[HeadUse, float] | None:
        """Return the head's use that some logits come from and their factor since; None where the trail is lost."""
        traced = self._traced.get(id(logits))
        if traced is None or not isinstance(traced.origin, int):
            return None
        return self.uses[traced.origin], traced.factor

    def _note(self, tensor: torch.Tensor, origin: str | int, factor: float) -> None:
        self._traced[id(tensor)] = _Traced(tensor, origin, factor)

    def _see(self, name: str, operands: tuple[Any, ...], out: Any) -> None:
        tensors = [t for value in operands for t in (value if isinstance(value, (list, tuple)) else (value,))]
        tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
        if name in _NORMS:
            self.normalised(out)
            return
        followed = [t for t in tensors if id(t) in self._traced]
        if not followed:
            return
        if name in _PRODUCTS and self._product(tensors, out):
            return
        traced = self._traced[id(followed[0])]
        factor = self._factor(name, operands, traced)
        if factor is not None:
            self._note(out, traced.origin, traced.factor * factor)
            return
        if isinstance(traced.origin, int):
            self.lost = name
        if name == "setitem" or out is followed[0]:
            self._traced.pop(id(followed[0]))

    def _product(self, tensors: list[torch.Tensor], out: torch.Tensor) -> bool:
        """Note a product with the tied weight, if that is what it is."""
        weights = [t for t in tensors if self._origin(t) == _WEIGHT]
        others = [t for t in tensors if self._origin(t) != _WEIGHT and t.dim() > 1 and t.shape[-1] == self._width]
        if len(weights) != 1 or len(others) != 1 or out.shape[-1:] != (self._vocabulary,):
            return False
        factor = self._traced[id(weights[0])].factor
        hidden = self._traced.get(id(others[0]))
        norm_factor = hidden.factor if hidden is not None and hidden.origin == _NORM else None
        self.uses.append(HeadUse(others[0], out, factor, norm_factor))
        self._note(out, len(self.uses) - 1, 1.0)
        return True

    def _origin(self, tensor: torch.Tensor) -> str | int | None:
        traced = self._traced.get(id(tensor))
        return None if traced is None else traced.origin

    def _factor(self, name: str, operands: tuple[Any, ...], traced: _Traced) -> float | None:
        """Return what a call multiplies a followed value by; None where it does something else to it."""
        if name in _SAME or (name in _PARTS and traced.origin != _WEIGHT):
            return 1.0
        if len(operands) != 2:  # the value and what it is combined with
            return None
        first = operands[0] is traced.tensor
        other = operands[1] if first else operands[0]
        if name == "add":  # a bias of the head, not a residual
            bias = isinstance(other, torch.Tensor) and other.numel() <= self._vocabulary
            return 1.0 if bias and isinstance(traced.origin, int) else None
        number = _number(other) if name in _SCALES else None
        if number is None or name.startswith("mul"):
            return number
        return 1.0 / number if first else None


def _number(value: Any) -> float | None:
    """Return a factor that is known without looking at data; None for anything else, and for zero."""
    if isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_meta:
        value = value.item()
    return float(value) if type(value) in (int, float) and value != 0 else None


def is_norm_layer(module: nn.Module) -> bool:
    """Return True if a module is a normalisation layer, by its class's name; a block that contains one is none."""
    return "norm" in type(module).__name__.lower() and next(module.children(), None) is None


@contextmanager
def watch_head(module: nn.Module, trace: HeadTrace) -> Iterator[None]:
    """Run a block under a trace that also sees what each normalisation layer gives out; hooks go afterwards."""

    def note(_module: nn.Module, _args: Any, out: Any) -> None:
        trace.normalised(out)

    handles = [m.register_forward_hook(note) for m in module.modules() if is_norm_layer(m)]
    try:
        with trace:
            yield
    finally:
        for handle in handles:
            handle.remove()
