"""Uses of tensors that a forward pass was seen to make, and the gradient of each use after one backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from tiecheck.records.record import Record

Role = Literal["embedding", "linear", "other", "unread"]
"""`embedding`: rows are looked up by index; `linear`: a matrix product with something that is no weight; `other`: any
other op; `unread`: a registered parameter that no op of the pass read."""

Held = Literal["parameter", "attribute", "nowhere"]
"""Where the tensor is held: registered as a parameter; a plain attribute of a module, or what a function that is one
closes over; or nowhere in the module at all."""


class Use(NamedTuple):
    """One way in which a forward pass reads one tensor."""

    names: tuple[str, ...]
    """All names of the tensor, sorted and capped; its path where it is a plain attribute; empty where it has none."""
    role: Role
    """Its part in the pass."""
    op: str | None
    """The operation that reads it, torch's word; None for `unread`, and where its value was taken out of sight."""
    transposed: bool
    """True where a product sums over its rows and not, as `F.linear` does, over its columns; or where the columns are
    looked up."""
    scale: float | None
    """Product of the known numbers on the way: on the tensor, on what it is multiplied with, and on what comes out, up
    to the next op with anything but a number. None where one of them could not be read."""
    reached: tuple[str, ...] = ()
    """The names by which the pass came to it; empty where it came by none of them (a closure over the tensor)."""
    held: Held = "parameter"
    """Where the tensor is held."""
    shape: tuple[int, ...] = ()
    """Its shape."""
    of: tuple[str, ...] = ()
    """Names of the parameter that a plain attribute is a view, an equal copy, or the transpose of."""
    shares: bool = False
    """True where it lies in that parameter's memory."""


def names_not_taken(uses: Iterable[Use]) -> tuple[str, ...]:
    """Return the names of one tensor by which no pass came to it; none where a pass came by an unknown one."""
    found = tuple(uses)
    if any(use.role == "unread" or not use.reached for use in found):
        return ()
    taken = {name for use in found for name in use.reached}
    return tuple(name for name in found[0].names if name not in taken)


def is_plain(uses: list[Use]) -> bool:
    """Return True for the uses of one tensor that is a weight of one layer, read once, and no table."""
    first = uses[0]
    return (
        len(uses) == len(first.names) == 1 and first.held == "parameter" and first.role not in {"embedding", "unread"}
    )


class Uses(Record):
    """The reads of one or more forward passes of a module."""

    uses: tuple[Use, ...]
    """The uses, by names and then in the order of the pass."""
    inputs: tuple[str, ...]
    """The inputs of each pass: names and shapes."""
    ran: Literal["meta", "real"]
    """`meta`: nothing was computed; `real`: the module's own weights were used, since meta could not be followed."""
    logits: tuple[str, ...] | None
    """Names of the matrix whose product the logits are; None where the output was not recognised or not followed."""
    stopped: str | None = None
    """Cause that kept a pass over meta from its end, where a real one followed it."""


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
