"""Gradients of the uses of a tied tensor, each by itself, after one backward pass."""

from __future__ import annotations

from typing import NamedTuple

from tiecheck.records.uses import Role


class UseGradient(NamedTuple):
    """Gradient that one use gives to a tensor."""

    role: Role
    """Role of the use."""
    op: str
    """The operation that reads the tensor."""
    reached: tuple[str, ...]
    """Names by which the pass came to it."""
    norm: float | None
    """Norm of the gradient; None where none comes back through this use."""
    detached: bool
    """True where the use itself is cut off (`detach`, `.data`, `no_grad`), and not what is made of its result."""


class TensorGradient(NamedTuple):
    """Gradient of one tensor, and what each of its uses gives to it."""

    names: tuple[str, ...]
    """All names of the tensor, sorted."""
    uses: tuple[UseGradient, ...]
    """The uses in the order of the pass."""
    norm: float
    """Norm of the gradient that the tensor gets."""
    off: float
    """Norm of what it differs by from the sum of the uses, over its own: 0 where nothing is lost or changed."""
    hooked: bool
    """True where a hook of the tensor's own may change its gradient."""
