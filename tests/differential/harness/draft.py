"""A directory before it is written, and what a change of it is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from zoo import Tensors

from harness.saves import Save

Drawn = st.SearchStrategy[Any]


@dataclass
class Draft:
    """A directory before it is written."""

    save: Save
    config: dict[str, Any]
    tensors: Tensors
    files: dict[str, str]
    """Member of a group -> its name in the file as it stands."""
    layout: str = "one"
    beside: list[str] = field(default_factory=list)
    valued: bool = False
    """Whether values were touched, so that a real load is the truth."""

    @classmethod
    def of(cls, save: Save) -> Draft:
        """Start with what was saved."""
        return cls(save, copy.deepcopy(save.config), dict(save.tensors), dict(save.files))

    def stored(self, group: int) -> dict[str, torch.Tensor]:
        """The members of a group that are stored."""
        names = self.save.groups[group]
        return {name: self.tensors[self.files[name]] for name in names if self.files[name] in self.tensors}

    def rename(self, new: Callable[[str], str]) -> None:
        """Give every stored tensor another name."""
        self.tensors = {new(name): value for name, value in self.tensors.items()}
        self.files = {member: new(name) for member, name in self.files.items()}


@dataclass(frozen=True)
class Mutator(ABC):
    """One change; its fields are its replay."""

    needs_group: ClassVar[bool] = False

    @abstractmethod
    def apply(self, draft: Draft) -> None:
        """Change a draft; a change that does not fit it any more does nothing."""

    @classmethod
    @abstractmethod
    def drawn(cls, save: Save) -> Drawn:
        """Draw one for a save."""
