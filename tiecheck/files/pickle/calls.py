"""The calls that `torch.load(weights_only=True)` can make, and their arguments (torch 2.13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tiecheck.files.pickle.records import ALLOWED, ARITIES, Global, Made, PickledTensor

FUNCTIONS = ("torch._utils.", "torch._tensor.", "torch.serialization.", "_codecs.")
"""Beginnings of the allowed names that are functions, and no classes: they make nothing by `__new__`."""


def _container(args: tuple[Any, ...]) -> bool:
    return not args or (len(args) == 1 and isinstance(args[0], (list, tuple, dict, Made)))


def _bytes(args: tuple[Any, ...]) -> bool:
    match args:
        case () | (int(),) | (list(),) | (tuple(),) | (bytes(),) | (Made(),) | (str(), str(), *_):
            return True
    return False


def _sized(args: tuple[Any, ...]) -> bool:
    return all(isinstance(value, int) for value in args) or (len(args) == 1 and isinstance(args[0], (list, tuple)))


def _numbers(args: tuple[Any, ...]) -> bool:
    return len(args) <= 2 and all(isinstance(value, (int, float)) for value in args)


def _of_text(args: tuple[Any, ...]) -> bool:
    return 0 < len(args) <= 3 and isinstance(args[0], str)


def _of_tensor(args: tuple[Any, ...]) -> bool:
    return not args or (len(args) <= 2 and (args[0] is None or isinstance(args[0], (PickledTensor, Made))))


def _so_many(counts: tuple[int, ...]) -> Callable[[tuple[Any, ...]], bool]:
    return lambda args: len(args) in counts


def _never(_: tuple[Any, ...]) -> bool:
    return False


_KNOWN: Mapping[str, Callable[[tuple[Any, ...]], bool]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "builtins.set", "torch.Size"), _container),
    **dict.fromkeys(("_codecs.encode", "torch.serialization._get_layout", "torch.device"), _of_text),
    **{f"torch._utils.{name}": _so_many(counts) for name, counts in ARITIES.items()},
    "torch._tensor._rebuild_from_type_v2": _so_many((4,)),
    "torch._utils._rebuild_device_tensor_from_numpy": _so_many((4,)),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _so_many((4,)),
    "torch._utils._rebuild_wrapper_subclass": lambda args: len(args) >= 8 and isinstance(args[0], Global),
    "torch.nn.parameter.Parameter": _of_tensor,
    "builtins.bytearray": _bytes,
    "builtins.complex": _numbers,
}


def _call_of(name: str) -> Callable[[tuple[Any, ...]], bool]:
    """Return what tells whether a name can be called so; a dtype, a scheme, the type of a storage never can."""
    sized = name.endswith(("Tensor", "UntypedStorage")) and "cuda" not in name and "sparse" not in name
    return _KNOWN.get(name) or (_sized if sized else _never)


_CALLS = {Global(*name.rpartition(".")[::2]): _call_of(name) for name in ALLOWED}


def can_be_called(function: Global, args: tuple[Any, ...]) -> bool:
    """Tell whether a call of an allowed name goes well, as far as its arguments' kinds and number tell."""
    return _CALLS[function](args)


def can_make(function: Global) -> bool:
    """Tell whether an allowed name is a class."""
    return not f"{function.module}.".startswith(FUNCTIONS)
