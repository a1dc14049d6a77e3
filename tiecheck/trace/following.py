"""Where the values of a call go: the trail that comes out of it, by the trails that went in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tiecheck.trace.operations import CAPS, JOINS, NORMS, PARTS, SAME, SCALES, is_lookup, turns
from tiecheck.trace.trails import NORMALISED, VALUE, Call, Trail

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
