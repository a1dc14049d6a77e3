"""The things that torch's operations do with a tensor that they are given, by their names (torch 2.13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"})
PARTS = frozenset(
    {"getitem", "narrow", "select", "squeeze", "unsqueeze", "split", "chunk", "unbind", "split_with_sizes"}
)
JOINS = frozenset({"cat", "concat", "stack"})
SCALES = frozenset({"mul", "multiply", "div", "divide", "true_divide", "rmul"})
CAPS = frozenset({"tanh", "softmax", "log_softmax", "sigmoid", "logsigmoid", "clamp"})
"""Operations that change logits one by one, or all of a position."""
SAME = frozenset({
    *("bfloat16", "cpu", "cuda", "double", "float", "half", "to", "type", "type_as"),
    *("expand", "expand_as", "flatten", "movedim", "permute", "repeat", "reshape", "t", "transpose", "swapaxes"),
    *("unflatten", "view", "view_as", "T", "mT", "H", "mH", "swapdims", "adjoint", "as_strided"),
    *("alias", "clone", "contiguous", "data", "detach", "dropout", "pad", "requires_grad", "positive"),
})  # fmt: skip
"""Operations that leave the values as they are: casts, other shapes, copies."""
WRITES = frozenset(
    {"uniform", "normal", "trunc_normal", "fill", "zero", "copy", "set", "kaiming_uniform", "ones", "zeros"}
)
"""Operations that write into their first argument and do not read it."""
_TURNS = frozenset({"t", "T", "mT", "H", "mH", "adjoint"})
_SWAPS = frozenset({"transpose", "swapaxes", "swapdims", "permute", "movedim"})
_ASKS = frozenset({
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
    *("__bool__", "__contains__", "__int__", "__float__", "__index__", "__format__"),
})  # fmt: skip
_MATRICES: Mapping[str, tuple[tuple[int, str], tuple[int, str]]] = {
    "matmul": ((0, "input"), (1, "other")),
    "rmatmul": ((1, "other"), (0, "input")),
    "mm": ((0, "input"), (1, "mat2")),
    "mv": ((0, "input"), (1, "vec")),
    "bmm": ((0, "input"), (1, "mat2")),
    "grouped_mm": ((0, "input"), (1, "mat2")),
    "addmv": ((1, "mat"), (2, "vec")),
    "addmm": ((1, "mat1"), (2, "mat2")),
    "baddbmm": ((1, "batch1"), (2, "batch2")),
    "addbmm": ((1, "batch1"), (2, "batch2")),
}
"""Products of two matrices -> where the left and the right one stand."""


class Kind(NamedTuple):
    """A function of torch, as far as it matters here."""

    name: str
    """Its name without underscores at the ends; that of the property for a getter."""
    asks: bool
    """True where it asks for a value, which there is none of on meta."""
    getter: bool
    """True where it reads a property that is no tensor."""
    begins: bool
    """True where what comes out of it may be followed though nothing that goes in was (`may_begin`)."""


_kinds: dict[Callable[..., Any], Kind] = {}


def kind_of(func: Callable[..., Any]) -> Kind:
    """Return what is known of a function that `__torch_function__` was called for."""
    kind = _kinds.get(func)
    if kind is None:
        name = getattr(func, "__name__", "")
        getter = name in {"__get__", "__set__", "__delete__"}
        plain = getattr(getattr(func, "__self__", None), "__name__", "") if getter else name
        tensors = plain in {"T", "mT", "H", "mH", "data", "real"}
        getter = getter and (not tensors or name != "__get__")
        plain = plain.strip("_")
        kind = _kinds[func] = Kind(plain, name in _ASKS, getter, plain in NORMS or plain in SCALES)
    return kind


def may_begin(name: str, tensors: Sequence[Tensor]) -> bool:
    """Return True if what comes out of a call is followed though nothing of it was: a norm, a product with a number."""
    return name in NORMS or len(tensors) == 1 or any(tensor.numel() == 1 for tensor in tensors)


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], where: tuple[int, str]) -> Any:
    """Return an argument of a call by its place or its name; None where it was not given."""
    place, name = where
    return args[place] if len(args) > place else kwargs.get(name)


def is_lookup(name: str, weight: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return True if a call looks rows of a matrix up by index tensors."""
    if name in {"embedding", "embedding_bag"}:
        return argument(args, kwargs, (1, "weight")) is weight
    if name == "index_select":
        return argument(args, kwargs, (0, "input")) is weight and argument(args, kwargs, (1, "dim")) == 0
    if name == "getitem" and args[0] is weight:
        first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return isinstance(first, list) or (isinstance(first, Tensor) and not first.is_floating_point())
    return False


def summed_over(name: str, weight: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, Any] | None:
    """Tell whether a product sums over the rows of a matrix and not its columns, and what it is multiplied with.

    None where the call is no product with it.
    """
    if weight.dim() < 2:  # a vector is no matrix
        return None
    if name in {"linear", "inner"}:
        given = argument(args, kwargs, (0, "input"))
        return (False, given) if argument(args, kwargs, (1, "weight")) is weight else None
    if name in _MATRICES:
        left, right = (argument(args, kwargs, where) for where in _MATRICES[name])
        return (True, left) if right is weight else (False, right) if left is weight else None
    if name == "einsum":
        return _einsum(weight, args)
    return _tensordot(weight, args, kwargs) if name == "tensordot" else None


def _tensordot(weight: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, Any] | None:
    pair = [argument(args, kwargs, where) for where in ((0, "a"), (1, "b"))]
    dims = argument(args, kwargs, (2, "dims"))
    place = next(n for n, one in enumerate(pair) if one is weight)
    if isinstance(dims, (tuple, list)) and len(dims) == 2:
        mine = dims[place] if isinstance(dims[place], (tuple, list)) else (dims[place],)
        return weight.dim() - 1 not in {n % weight.dim() for n in mine}, pair[1 - place]
    return (place == 1, pair[1 - place]) if dims == 1 else None


def _einsum(weight: Tensor, args: Sequence[Any]) -> tuple[bool, Any] | None:
    operands = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2:  # a product of two
        return None
    given, _, result = args[0].replace(" ", "").partition("->")
    letters = given.split(",")[0 if operands[0] is weight else 1]
    other = operands[1] if operands[0] is weight else operands[0]
    summed = [letter for letter in letters if letter not in result and letter != "."]
    return (summed[-1] != letters[-1], other) if summed and other is not weight else None


def turns(name: str, tensor: Tensor, args: Sequence[Any], out: Any) -> bool:
    """Return True if a call that leaves the values as they are swaps the last two dimensions."""
    if name in _TURNS:
        return True
    if name not in _SWAPS or tensor.dim() < 2 or not isinstance(out, Tensor):
        return False
    order = args[1:] if name != "permute" or not isinstance(args[1], (tuple, list)) else args[1]
    numbers = [n % tensor.dim() for n in order if isinstance(n, int)]
    last = tensor.dim() - 1
    if name == "permute":
        return numbers.index(last) < numbers.index(last - 1)
    return set(numbers) == {last, last - 1}
