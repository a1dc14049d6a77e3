"""The eight kinds of tie of the survival table, each as a little model, and the truth by object and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Pair(nn.Module):
    """Embedding and head with one way between them."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(6, 6)
        self.lin = nn.Linear(6, 6, bias=False)

    def one(self) -> Tensor:
        return self.emb.weight

    def other(self) -> Tensor:
        return self.lin.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.emb(ids) @ self.other().t()


class Param(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.lin.weight = self.emb.weight


class Alias(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.lin = self.emb


class NewParameter(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.lin.weight = nn.Parameter(self.emb.weight)


class Data(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.lin.weight.data = self.emb.weight.data


class Transposed(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.lin.weight = nn.Parameter(self.emb.weight.t())


class Holder(nn.Module):
    """A module with a table of its own."""


class SharedBuffer(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Holder(), Holder()
        self.left.register_buffer("table", torch.randn(6, 6))
        self.right.register_buffer("table", self.left.table)

    def one(self) -> Tensor:
        return self.left.table

    def other(self) -> Tensor:
        return self.right.table


class ParamAsBuffer(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder()
        self.holder.register_buffer("w", self.emb.weight)

    def other(self) -> Tensor:
        return self.holder.w


class Listed(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.reader = Holder()
        self.reader.tied = [self.emb.weight]

    def other(self) -> Tensor:
        return self.reader.tied[0]


KINDS: tuple[type[Pair], ...] = (Param, Alias, NewParameter, Data, Transposed, SharedBuffer, ParamAsBuffer, Listed)


def truth(model: Any) -> str:
    """I for one object, S for one memory, x for two."""
    one, other = model.one(), model.other()
    if one is other:
        return "I"
    return "S" if one.untyped_storage()._cdata == other.untyped_storage()._cdata else "x"


def marked_line(function: Callable[..., Any], mark: str = "# <-") -> int:
    """The line of a function's source that is marked."""
    import inspect

    lines, first = inspect.getsourcelines(function)
    (found,) = [first + i for i, line in enumerate(lines) if mark in line]
    return found
