"""One drawn directory: a class, its variant, and what was done to it. Its `repr` replays it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from harness import mutators
from harness.draft import Draft, Mutator
from harness.files import write
from harness.mutators import mutation
from harness.saves import Save, Variant, saved


class Case(NamedTuple):
    """A directory by its description."""

    class_name: str
    model_type: str
    variant: Variant = ()
    mutations: tuple[Mutator, ...] = ()
    module: str = ""

    def __repr__(self) -> str:
        parts = [repr(self.class_name), repr(self.model_type)]
        parts += [f"{key}={getattr(self, key)!r}" for key in ("variant", "mutations", "module") if getattr(self, key)]
        return f"Case({', '.join(parts)})".replace("Ellipsis", "...")

    def draft(self) -> Draft:
        """The directory, to be written."""
        draft = Draft.of(saved(self.class_name, self.model_type, self.variant, self.module))
        for change in self.mutations:
            change.apply(draft)
        return draft

    def write(self, where: Path) -> Draft:
        """Write the directory, and return what was written."""
        draft = self.draft()
        write(draft, where)
        return draft

    def smaller(self) -> Iterator[Case]:
        """Yield the case with one change less, and with the default config."""
        for number in range(len(self.mutations)):
            yield self._replace(mutations=self.mutations[:number] + self.mutations[number + 1 :])
        if self.variant:
            yield self._replace(variant=())


def untouched(save: Save) -> Case:
    """Return a save as it was written."""
    return Case(save.class_name, save.model_type, save.variant, (), save.module)


def read_case(text: str) -> Case:
    """Return the case that a `repr` describes."""
    names = {name: value for name, value in vars(mutators).items() if isinstance(value, type)}
    made = eval(text, {"__builtins__": {}, "Case": Case, **names})
    assert isinstance(made, Case)
    return made


@st.composite
def cases(draw: Any, pool: list[Save]) -> Case:
    """Draw a save, and none to three changes of it."""
    save = draw(st.sampled_from(pool))
    number = draw(st.sampled_from((0, 1, 1, 1, 2, 2, 3)))
    changes = tuple(draw(mutation(save)) for _ in range(number))
    return untouched(save)._replace(mutations=changes)
