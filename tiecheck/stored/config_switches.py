"""Sizes that a switch of config.json decides, held against what is stored: the state in which it was saved."""

from __future__ import annotations

from fractions import Fraction
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
