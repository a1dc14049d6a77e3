"""Every change that can be made to a saved model, and one drawn."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.configs import Classes, Flatten, OlderKeys, SetKey
from harness.draft import Drawn, Mutator
from harness.files import Beside, Layout
from harness.members import Cast, Fewer, Stored, Stray, Unprefixed, Wrapped, Written
from harness.saves import Save

MUTATORS: tuple[type[Mutator], ...] = (
    *(SetKey, SetKey, Flatten, OlderKeys, Wrapped, Unprefixed, Stray, Stored, Stored, Written, Written),
    *(Fewer, Cast, Layout, Beside, Classes),
)
"""Every mutator; those that have most to say stand twice."""


def mutation(save: Save) -> Drawn:
    """Draw one change of a save."""
    fits = [kind.drawn(save) for kind in MUTATORS if save.groups or not kind.needs_group]
    return st.one_of([strategy for strategy in fits if not strategy.is_empty])
