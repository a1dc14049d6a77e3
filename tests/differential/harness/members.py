"""Changes of names and of members: which are stored, under which names, with which values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from harness.draft import Draft, Drawn, Mutator
from harness.saves import Save


@dataclass(frozen=True)
class Wrapped(Mutator):
    """Every name has one more prefix."""

    prefix: str

    def apply(self, draft: Draft) -> None:
        draft.rename(lambda name: self.prefix + name)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        words = ["module.", "_orig_mod.", "base_model.model.", "model.", "language_model."]
        return st.sampled_from([*words, *([f"{save.prefix}."] if save.prefix else [])]).map(cls)


@dataclass(frozen=True)
class Unprefixed(Mutator):
    """The base model's own names; what is not its own stays or goes."""

    rest: bool

    def apply(self, draft: Draft) -> None:
        start = f"{draft.save.prefix}."
        if not any(name.startswith(start) for name in draft.tensors):
            return
        if not self.rest:
            draft.tensors = {n: t for n, t in draft.tensors.items() if n.startswith(start)}
        draft.rename(lambda name: name.removeprefix(start))

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.booleans().map(cls) if save.prefix else st.nothing()


@dataclass(frozen=True)
class Stray(Mutator):
    """One tensor stands under a name of nobody: what it was nobody can tell, and a member is not stored then."""

    name: str

    def apply(self, draft: Draft) -> None:
        if self.name in draft.tensors:
            draft.tensors[f"{self.name}_of_nobody"] = draft.tensors.pop(self.name)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.sampled_from(sorted(save.tensors)).map(cls)


@dataclass(frozen=True)
class Stored(Mutator):
    """Some members of a group are stored, with the values of one."""

    needs_group = True
    group: int
    kept: tuple[str, ...]

    def apply(self, draft: Draft) -> None:
        there = draft.stored(self.group)
        if there:
            value = next(iter(there.values()))
            for name in draft.save.groups[self.group]:
                draft.tensors.pop(draft.files[name], None)
            draft.tensors |= {draft.files[name]: value.clone() for name in self.kept}

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        def of(number: int) -> Drawn:
            names = save.groups[number][:8]
            return st.sets(st.sampled_from(names)).map(lambda kept: cls(number, tuple(sorted(kept))))

        return st.integers(0, len(save.groups) - 1).flatmap(of)


def _row(value: torch.Tensor) -> torch.Tensor:
    value[-1] += 1
    return value


def _first(value: torch.Tensor, number: float) -> torch.Tensor:
    value.view(-1)[0] = number
    return value


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "same": lambda value: value,
    "other": lambda value: value + 0.1,
    "row": _row,
    "nan": lambda value: _first(value, float("nan")),
    "zero": lambda value: _first(value, 0.0),
    "negative zero": lambda value: _first(value, -0.0),
    "half": lambda value: value.to(torch.float16),
    "bfloat16": lambda value: value.to(torch.bfloat16),
    "double": lambda value: value.to(torch.float64),
    "transposed": lambda value: value.t().contiguous(),
    "padded": lambda value: torch.cat([value, value[:3]]),
    "cut": lambda value: value[:-1].clone(),
    "scaled": lambda value: value * 2,
}
"""Ways to write a member."""


@dataclass(frozen=True)
class Written(Mutator):
    """A member, or every member of its group, is stored with values of its own."""

    needs_group = True
    group: int
    member: str | None
    how: str

    def apply(self, draft: Draft) -> None:
        there = draft.stored(self.group)
        if not there:
            return
        value = next(iter(there.values()))
        bias = value.dim() == 1 and self.how in ("other", "row", "scaled")
        if self.how != "same" and (not value.is_floating_point() or not (value.dim() == 2 or bias)):
            return
        for name in draft.save.groups[self.group] if self.member is None else (self.member,):
            draft.tensors[draft.files[name]] = CHANGES[self.how](there.get(name, value).clone())
        draft.valued |= self.how not in ("same", "padded", "cut")

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        def of(number: int) -> Drawn:
            names = st.sampled_from([None, *save.groups[number][:8]])
            return st.builds(cls, st.just(number), names, st.sampled_from(sorted(CHANGES)))

        return st.integers(0, len(save.groups) - 1).flatmap(of)


@dataclass(frozen=True)
class Fewer(Mutator):
    """One tensor that is no member is not stored."""

    name: str

    def apply(self, draft: Draft) -> None:
        if len(draft.tensors) > 1:
            draft.tensors.pop(self.name, None)

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        others = sorted(set(save.tensors) - set(save.files.values()))
        return st.sampled_from(others).map(cls) if others else st.nothing()


@dataclass(frozen=True)
class Cast(Mutator):
    """The whole file is stored in another dtype."""

    dtype: str

    def apply(self, draft: Draft) -> None:
        dtype = getattr(torch, self.dtype)
        draft.tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in draft.tensors.items()}

    @classmethod
    def drawn(cls, save: Save) -> Drawn:
        return st.sampled_from(["float16", "bfloat16", "float64"]).map(cls)
