"""A module's tree as plain data, for a plan: every path, every tensor once, bytes in the element type of the load."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tiecheck.records.module_tree import ModuleTree, TreeNode, TreeTensor
from tiecheck.records.words import Unknown

LIMIT = 1_000_000
"""Paths that are listed. A chain of twenty doubled aliases has as many, and its state dict too."""

CYCLE = "a module is registered inside itself, so that its names never end"


def module_tree(module: nn.Module, dtype: str | None = None) -> ModuleTree | Unknown:
    """The tree of a module; nothing is changed, no element is read.

    Args:
        module: The model, on meta or not, tied or not.
        dtype: The element type its floating-point parameters will be loaded in, torch's word; None for their own.
            Buffers keep theirs.

    Returns:
        The tree, or why there is none: a registered cycle, more than a million paths, an uninitialised parameter.
    """
    try:
        return _Walk(module, getattr(torch, dtype) if dtype else None).tree()
    except _NoTreeError as error:
        return Unknown(str(error))


class _NoTreeError(Exception):
    """Why a module has no finite tree with known sizes."""


class _Walk:
    """One depth-first walk over every path, without recursion."""

    def __init__(self, root: nn.Module, dtype: torch.dtype | None) -> None:
        self._root = root
        self._dtype = dtype
        self._nodes: list[TreeNode] = []
        self._sizes: list[int] = []
        self._numbers: dict[int, int] = {}
        self._known: dict[int, int] = {}  # a module's id -> its first node: all of them live as long as the root

    def tree(self) -> ModuleTree:
        """The tree."""
        self._add(-1, "", self._root)
        stack: list[tuple[nn.Module, int, Iterator[tuple[str, nn.Module | None]]]] = [
            (self._root, 0, iter(self._root._modules.items()))
        ]
        open_ones = {id(self._root)}
        while stack:
            owner, number, rest = stack[-1]
            label, child = next(rest, ("", owner))
            if child is owner:
                if label:
                    raise _NoTreeError(CYCLE)
                open_ones.discard(id(owner))
                stack.pop()
            elif child is not None:
                if id(child) in open_ones:
                    raise _NoTreeError(CYCLE)
                self._add(number, label, child)
                if child._modules:
                    open_ones.add(id(child))
                    stack.append((child, len(self._nodes) - 1, iter(child._modules.items())))
        return ModuleTree(tuple(self._nodes), tuple(self._sizes))

    def _add(self, parent: int, label: str, module: nn.Module) -> None:
        if len(self._nodes) == LIMIT:
            raise _NoTreeError(f"it has more than {LIMIT:,} paths of modules")
        number = len(self._nodes)
        first = self._known.setdefault(id(module), number)
        tensors = tuple(self._own(module)) if first == number else self._nodes[first].tensors
        self._nodes.append(TreeNode(parent, label, type(module).__name__, tensors, first != number, first))

    def _own(self, module: nn.Module) -> Iterator[TreeTensor]:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield TreeTensor(name, self._number(parameter, self._dtype), persistent=True)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield TreeTensor(name, self._number(buffer, None), name not in module._non_persistent_buffers_set)

    def _number(self, tensor: Tensor, dtype: torch.dtype | None) -> int:
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self._sizes)
            self._sizes.append(_nbytes(tensor, dtype))
        return number


def _nbytes(tensor: Any, dtype: torch.dtype | None) -> int:
    """Bytes of a tensor; a floating-point one counts in another element type where one is given."""
    if is_lazy(tensor):
        raise _NoTreeError("a parameter is not initialised yet, so that its size is not known")
    own = tensor.dtype
    return int(tensor.numel()) * _width(dtype if dtype is not None and own.is_floating_point else own)


@lru_cache(maxsize=64)
def _width(dtype: torch.dtype) -> int:
    """Bytes of one element."""
    return dtype.itemsize
