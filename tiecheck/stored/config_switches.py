"""What a size of a class hangs on beside numbers: switches of config.json, lists of layers, how many axes it has."""

from __future__ import annotations

from typing import Any

from tiecheck.records.stored import StoredTensor
from tiecheck.records.words import Unknown
from tiecheck.stored.config_values import Section, walk_field
from tiecheck.wording import listed


def switch_doubt(section: Section, row: list[Any], tensor: StoredTensor | None, line: str) -> str | None:
    """Return why a config may build another size than is stored, by one row of switches; None where it does not."""
    _, axis, switches, states = row
    if tensor is None or len(tensor.shape) <= axis:
        return None
    held, size = [walk_field(section, dotted, line) for dotted in switches], tensor.shape[axis]
    made = [(state, _total(section, terms, line)) for state, terms in states]
    mine = next((total for state, total in made if state == held), None)
    usual = held == states[0][0] or any(isinstance(value, Unknown) for value in held)
    if mine == size or (mine is None and usual and all(total != size for _, total in made)):
        return None
    where = listed(tuple(".".join((*section.level, dotted)) for dotted in switches))
    return f"the size of {tensor.name} hangs on {where}, and {size} in axis {axis} may be that of another value"


def _total(section: Section, terms: list[tuple[int, dict[str, int]]] | None, line: str) -> int | None:
    """Return the sum of products that a size is under one state; None where it, or a number in it, is not known."""
    from fractions import Fraction  # few classes have such rows, and it brings decimal along

    total = Fraction(0)
    for factor, powers in terms or ():
        product = Fraction(factor)
        for dotted, exponent in powers.items():
            value = walk_field(section, dotted, line)
            if type(value) is not int or value <= 0:
                return None
            product *= Fraction(value) ** exponent
        total += product
    return int(total) if terms and total.denominator == 1 else None


def listed_apart(section: Section, name: str) -> bool:
    """Tell whether a list of the config names the layer of a tensor, which may then be built as no other (SAM)."""
    numbers = {int(part) for part in name.split(".") if part.isdigit()}
    lists = (value for key, value in section.data.items() if key.endswith(_OF_LAYERS) and isinstance(value, list))
    return any(type(held) is int and held in numbers for value in lists for held in value)


_OF_LAYERS = ("_indexes", "_attn_indices", "_layers", "_layer_indices")
"""Ends of the keys whose numbers are layers of another kind, not sizes, tokens or outputs."""


def other_dims(name: str, axis: int, tensor: StoredTensor) -> bool:
    """Tell whether a stored tensor lacks the axis that a config makes, or has several where a class has a bias of one.

    Of the library's biases one alone is made with more axes, and its size is asked for in the last of them.
    """
    return 0 not in tensor.shape and (
        len(tensor.shape) <= axis or (len(tensor.shape) > 1 and axis == 0 and name.rpartition(".")[2] == "bias")
    )
