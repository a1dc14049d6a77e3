"""The trail of a value in a forward pass: where it comes from, and what it was multiplied by since.

And the names by which a pass comes to a parameter: which of the slots that hold it was asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from torch import Tensor

from tiecheck.live.module_graph import CAP
from tiecheck.live.registrations import Registrations
from tiecheck.records.uses import Role
from tiecheck.trace.operations import CAPS, JOINS, NORMS, PARTS, SAME, SCALES, is_lookup, turns


class TensorRead:
    """One op that read a followed tensor."""

    def __init__(self, number: int, sources: tuple[int, ...], op: str, role: Role) -> None:
        """Begin a numbered read, nothing multiplied yet, of tensors that were joined before, if several."""
        self.number, self.sources, self.op, self.role = number, sources, op, role
        self.turned = False
        """True where the product sums over rows."""
        self.before: float | None = 1.0
        """Factor that the tensor was multiplied by before; None where it is not known."""
        self.beside: float | None = 1.0
        """Factor on what it is multiplied with, since that was made."""
        self.norm: float | None = None
        """The same since a normalisation layer; None if it does not come from one."""
        self.after: float | None = 1.0
        """Factor on what came out, up to the first op that is no number's."""
        self.learns = True
        """False where the tensor that the op was given has no gradient."""
        self.ended = False
        """True once that op came."""
        self.hidden: Tensor | None = None
        """The factor it was multiplied with, shape (..., width), for the tensor that is kept."""
        self.product: Tensor | None = None
        """The product that came out, for the tensor that is kept."""
        self.reached: tuple[str, ...] = ()
        """Names by which the pass came to it."""

    @property
    def scale(self) -> float | None:
        """All three factors; None where one is not known."""
        if self.before is None or self.beside is None or self.after is None:
            return None
        return self.before * self.beside * self.after


class Trail(NamedTuple):
    """Where a value comes from."""

    kind: Literal["weight", "norm", "read", "value"]
    """A followed tensor, a normalised value, what a read gave out, or anything else."""
    sources: tuple[int, ...] = ()
    """Numbers of the tensors (`weight`), or of the read (`read`)."""
    factor: float | None = 1.0
    """The factor it was multiplied by since; None where that is not known."""
    turned: bool = False
    """True where rows and columns of a weight changed places."""

    def times(self, factor: float | None) -> Trail:
        """Return the trail of the value times a number; None for one that is not known."""
        return self._replace(factor=None if factor is None or self.factor is None else self.factor * factor)


VALUE = Trail("value")
NORMALISED = Trail("norm")


class Call(NamedTuple):
    """One call of an operation, with what is known of the tensors among its arguments."""

    name: str
    args: Sequence[Any]
    """Positional arguments, as the model gave them."""
    kwargs: Mapping[str, Any]
    tensors: Sequence[Tensor]
    """The tensors among both."""
    trails: Sequence[Trail]
    """Their trails."""
    outs: Sequence[Tensor]
    """The tensors that came out."""

    def trail_of(self, tensor: object) -> Trail | None:
        """Return the trail of one of the arguments; None for anything else."""
        return next((t for t, x in zip(self.trails, self.tensors, strict=True) if x is tensor), None)


def tensors_in(values: Sequence[Any]) -> list[Tensor]:
    """Return the tensors in arguments, those in lists and tuples included."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


class _Slots(dict[str, Any]):
    """A module's `_parameters` or `_modules` that notes who was asked for what last."""

    def __init__(self, held: dict[str, Any], number: int, last: dict[int, tuple[int, str]]) -> None:
        super().__init__(held)
        self._number, self._last = number, last

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self._last[id(value)] = self._number, key
        return value

    def values(self) -> Any:
        """Yield the values, each noted as it is taken: a loop over a list of modules asks for none by its key."""
        return (self[key] for key in tuple(self))


@contextmanager
def watched_names(places: Registrations) -> Iterator[Callable[[Tensor], tuple[str, ...]]]:
    """Note through which names a block comes to the parameters of a module; its dictionaries are put back afterwards.

    Only a module that registers a parameter, or a module that stands under several paths, is watched (`nn.Module` finds
    both in two dictionaries of its own, torch 2.13); one whose dictionaries are of another type is not.

    Yields:
        A function from a parameter to the names by which it was asked for last; none where it was not.
    """
    graph = places.graph
    last: dict[int, tuple[int, str]] = {}
    holders = {(graph.modules[owner], owner, "_parameters") for owner in places.owners}
    for number in graph.several():
        holders |= {
            (graph.modules[e.parent], e.parent, "_modules") for e in graph.registrations_of(number) if e.parent >= 0
        }
    before = []
    for module, number, which in holders:
        held = module.__dict__[which]
        if type(held) is dict:
            before.append((module, which, held))
            module.__dict__[which] = _Slots(held, number, last)

    def names_of(tensor: Tensor) -> tuple[str, ...]:
        if id(tensor) not in last:
            return ()
        owner, attribute = last[id(tensor)]
        prefixes = graph.prefixes(owner, CAP)
        by = last.get(id(graph.modules[owner])) if len(prefixes) > 1 else None
        if by is not None:
            prefixes = [f"{above}{by[1]}." for above in graph.prefixes(by[0], CAP)]
        return tuple(prefix + attribute for prefix in prefixes)

    try:
        yield names_of
    finally:
        for module, which, held in before:
            module.__dict__[which] = held


Numbers = Callable[[Any], float | None]
"""Returns the number that a value is known to be; None for anything else, and for zero."""


def weight_after(call: Call, number: Numbers) -> Trail | None:
    """Return the trail of the weight that a call makes of weights; None where it makes something else of them.

    A view, a cast, a part, several joined, a multiple; and of matrices also whatever keeps the shape and takes nothing
    but weights, whose factor is then not known (normalised, pruned, an adapter's added).
    """
    first, tensor = call.trails[0], call.tensors[0]
    weights = [trail for trail in call.trails if trail.kind == "weight"]
    if first.kind != "weight" or is_lookup(call.name, tensor, call.args, call.kwargs):
        return None
    rest = [x for x, t in zip(call.tensors, call.trails, strict=True) if t.kind != "weight"]
    if rest and (call.name not in SCALES or any(x.numel() != 1 for x in rest)):
        return None
    trail = first._replace(sources=tuple(dict.fromkeys(n for t in weights for n in t.sources)))
    if call.name in SAME:
        trail = trail._replace(turned=trail.turned != turns(call.name, tensor, call.args, call.outs[0]))
    elif call.name in SCALES and len(weights) == 1:
        trail = trail.times(factor_of(call, tensor, number))
    elif call.name not in PARTS and call.name not in JOINS:
        trail = trail.times(None)
        if call.outs[0].shape != tensor.shape or call.name == "setitem" or tensor.dim() == 1:
            return None
    return trail


def value_after(call: Call, number: Numbers) -> tuple[Trail, int | None]:
    """Return the trail of what a call makes of values, and the place of the argument that it is the same as."""
    if call.name in NORMS:
        return NORMALISED, None
    place = None
    for n, trail in enumerate(call.trails):
        if trail.kind in {"norm", "read"}:
            place = n
            break
        if place is None and trail.kind == "value" and trail.factor != 1.0:
            place = n
    if place is None and call.name in SCALES:
        place = next((n for n, t in enumerate(call.trails) if t.kind == "value" and call.tensors[n].numel() > 1), None)
    if place is not None and call.name in CAPS and call.trails[place].kind == "read":  # a soft cap, probabilities
        return call.trails[place].times(None), None
    if place is None or not _hands_on(call, place, number):
        return VALUE, None
    trail = call.trails[place]
    return (trail.times(factor_of(call, call.tensors[place], number)) if call.name in SCALES else trail), place


def _hands_on(call: Call, place: int, number: Numbers) -> bool:
    """Return True if a call hands a value on, times a number at most, or with a bias added."""
    tensor = call.tensors[place]
    if call.name in SAME or call.name in PARTS or call.name == "index_select":
        return place == 0
    if call.name in {"add", "iadd"} and len(call.tensors) == 2:  # a bias, and no residual
        return call.trails[place].kind == "read" and call.tensors[1 - place].numel() <= tensor.shape[-1]
    if call.name not in SCALES:
        return False
    if len(call.tensors) == 1:
        return factor_of(call, tensor, number) is not None
    return len(call.tensors) == 2 and call.tensors[1 - place].numel() == 1 < tensor.numel()


def factor_of(call: Call, tensor: Tensor, number: Numbers) -> float | None:
    """Return the number that a call multiplies a tensor by; None where it cannot be read, or is zero."""
    operands = [v for v in (*call.args, *call.kwargs.values()) if not isinstance(v, str)][:2]
    if len(operands) != 2:  # the value and what it is combined with
        return None
    found = number(operands[1] if operands[0] is tensor else operands[0])
    if found is None or call.name.startswith(("mul", "rmul")):
        return found
    return 1.0 / found if operands[0] is tensor else None
