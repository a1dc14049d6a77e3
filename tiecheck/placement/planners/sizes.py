"""How many bytes the planners believe a tensor, a module and a layer take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tiecheck.live.registrations import Registrations, paused_collector
from tiecheck.placement.planners.tree import Entry, Sizer, Tree

Bytes = Any
"""An int; a float where accelerate counts a bool as an eighth of a byte, as it does to 1.15."""

NAMES = 100
"""Names that are listed of one tensor at most."""


class Sized(NamedTuple):
    """A tensor of a model, and what it takes."""

    names: tuple[str, ...]
    """Its names, sorted; at most `NAMES` of them."""
    nbytes: int
    """Bytes it takes once it is loaded."""
    buffer: bool
    """Whether it is a buffer."""


def sizes_of(module: nn.Module, dtype: str | None = None) -> tuple[Sized, ...]:
    """What each parameter and buffer takes, each tensor once whatever number of names it has.

    Args:
        module: Any module; it is not changed.
        dtype: The element type that floating tensors are loaded in, torch's word; None for each one's own.

    Returns:
        The tensors in the order of the modules, the parameters first.

    Raises:
        TypeError: If `module` is no `nn.Module`.
        AttributeError: If torch has no such type.
    """
    width = None if dtype is None else torch_dtype(dtype).itemsize
    with paused_collector():
        held = Registrations(module, buffers=True)
        return tuple([_sized(held, place, width) for place in held.firsts])


def _sized(held: Registrations, place: int, width: int | None) -> Sized:
    """One tensor, by its first place."""
    tensor = held.objects[place]
    names: list[str] = []
    for where in held.repeats.get(place, (place,)):
        attribute = held.attributes[where]
        names += [prefix + attribute for prefix in held.graph.prefixes(held.owners[where], NAMES)]
    size = width if width is not None and tensor.is_floating_point() else tensor.element_size()
    return Sized(tuple(sorted(names)[:NAMES]), _elements(tensor) * size, place >= held.boundary)


def _elements(tensor: torch.Tensor) -> int:
    """Elements of a tensor; none of one whose shape is not known yet (`nn.LazyLinear`)."""
    return 0 if is_lazy(tensor) else tensor.numel()


def torch_dtype(word: str) -> torch.dtype:
    """Torch's type of a word like `float16` or `torch.float16`.

    Raises:
        AttributeError: If torch has none.
    """
    found: torch.dtype = getattr(torch, word.removeprefix("torch."))
    return found


def accelerate_width(dtype: str | None, *, exempt: bool = True) -> Callable[[torch.Tensor], Bytes]:
    """Bytes of an element of a tensor as accelerate counts them (`compute_module_sizes`, 1.15).

    Args:
        dtype: What its `dtype=` is; a tensor of a smaller type keeps its own size, so that loading float16 weights as
            float32 is counted as float16.
        exempt: Whether integers keep their own size: from 0.27.
    """
    wanted = None if dtype is None else _width(torch_dtype(dtype))

    def width(tensor: torch.Tensor) -> Bytes:
        own = _width(tensor.dtype)
        if wanted is not None and not (exempt and _whole(tensor.dtype)):
            own = min(wanted, own)
        return own

    return width


def accelerate_sizer(dtype: str | None, *, exempt: bool = True) -> Sizer:
    """How accelerate counts a tensor. See `accelerate_width`."""
    width = accelerate_width(dtype, exempt=exempt)
    return lambda entry: entry.tensor.numel() * width(entry.tensor)


def transformers_sizer(module: Any, quantizer: Any, declared: dict[str, str] | None) -> Sizer:
    """How transformers counts a tensor (`compute_module_sizes`, 5.23): the targets of declared ties not at all."""

    def size(entry: Entry) -> Bytes:
        if declared is not None and entry.name in declared:
            return None
        if quantizer is not None:
            return entry.tensor.numel() * quantizer.param_element_size(module, entry.name, entry.tensor)
        return entry.tensor.numel() * entry.tensor.element_size()

    return size


def _whole(dtype: torch.dtype) -> bool:
    return str(dtype).startswith(("torch.uint", "torch.int", "torch.bool"))


_WIDTHS: dict[torch.dtype, Bytes] = {torch.bool: 1 / 8}


def _width(dtype: torch.dtype) -> Bytes:
    """Bytes of an element as accelerate has them (`dtype_byte_size`, 1.15): by the digits its name ends in."""
    found = _WIDTHS.get(dtype)
    if found is None:
        digits = re.search(r"[^\d](\d+)$", str(dtype))
        if str(dtype).startswith("torch.float8_"):
            found = 1
        elif digits is None:
            raise ValueError(f"`dtype` is not a valid dtype: {dtype}.")
        else:
            found = int(digits[1]) // 8
        _WIDTHS[dtype] = found
    return found


class Sizes(NamedTuple):
    """Bytes by name, in the order in which the tools' own tables come to be."""

    of: dict[str, Bytes]
    """Bytes of every module and tensor that is counted, by name; the whole under the empty one."""
    holders: dict[str, Bytes]
    """Bytes of the tensors that stand directly in a module."""


def sizes(tree: Tree, size: Sizer) -> Sizes:
    """Add a tool's bytes up over the modules.

    Args:
        tree: The model.
        size: The tool's counting.

    Raises:
        Exception: What the tool's counting raises, e.g. for a parameter without a shape.
    """
    counted = [(entry.name, nbytes) for entry in tree.entries if (nbytes := size(entry)) is not None]
    return summed(counted)


def summed(counted: Iterable[tuple[str, Bytes]]) -> Sizes:
    """The tables for tensors of known bytes.

    A module's own tensors are added up before they are added to what is above it: a sum a module, not a tensor.
    """
    of: dict[str, Bytes] = {"": 0}
    holders: dict[str, Bytes] = {}
    above: dict[str, list[str]] = {"": [""]}
    for name, nbytes in counted:
        holder, dot, _ = name.rpartition(".")
        chain = above.get(holder)
        if chain is None:
            parts = holder.split(".")
            chain = above[holder] = [".".join(parts[:end]) for end in range(len(parts) + 1)]
            for path in chain:
                of.setdefault(path, 0)
        for path in chain:
            of[path] += nbytes
        if dot:
            holders[holder] = holders.get(holder, 0) + nbytes
        of[name] = of.get(name, 0) + nbytes
    return Sizes(of, holders)
