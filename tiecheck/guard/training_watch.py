"""The part that callbacks of trainers share: a guard over the whole training, and a look at what each save wrote."""

from __future__ import annotations

import os
import warnings

from torch import nn

from tiecheck.errors import TiecheckError
from tiecheck.guard.errors import TieBroken, TieWarning
from tiecheck.guard.tie_guard import OnBreak, TieGuard, guard
from tiecheck.wording import listed


class TrainingWatch:
    """A guard from the first step to the last, looked at every few steps and after each save."""

    def __init__(self, *, every: int = 0, on_break: OnBreak = "raise") -> None:
        """Set it up; `start` opens the guard.

        Args:
            every: Look every so many steps; 0 for the end, and the saves, alone.
            on_break: What a broken tie does, as for `tiecheck.guard`.
        """
        self._every = every
        self._on_break = on_break
        self.guard: TieGuard | None = None
        """The open guard; None before and after the training."""

    def start(self, model: nn.Module) -> None:
        """Remember what is tied in the model that is going to be trained."""
        self.guard = guard(model, on_break=self._on_break)
        self.guard.__enter__()

    def step(self, number: int) -> None:
        """Look, where this step is one of those."""
        if self._every and number % self._every == 0:
            self._look()

    def saved(self, model: nn.Module, folder: str) -> None:
        """Look, and hold a directory that was just written against the model: what it lost cannot be had back.

        Raises:
            TieBroken: A tie of the model is not in what was saved, and `on_break` is not `warn`.
        """
        self._look()
        if not os.path.exists(os.path.join(folder, "config.json")):
            return
        from tiecheck.engine.compare import compare_targets
        from tiecheck.engine.options import make_config

        try:
            found = compare_targets(model, folder, make_config(model))
        except TiecheckError:  # an adapter alone, or a format that is not read: nothing to hold against it
            return
        lost = [change for change in found.changed if "values" in change.differs] + list(found.lost)
        lost += [one for one in found.made if one.before is not None and one.before.kind == "separate"]
        if lost:
            told = "; ".join(f"{listed(one.names)}{f' ({one.values})' if one.values else ''}" for one in lost)
            text = f"{folder} does not hold what is live (TIE404): {told}"
            if self._on_break == "warn":
                warnings.warn(text, TieWarning, stacklevel=2)
            else:
                self._drop()
                raise TieBroken(text, ())

    def end(self) -> None:
        """Look a last time, and take the guard away."""
        opened, self.guard = self.guard, None
        if opened is not None:
            opened.__exit__(None, None, None)

    def _look(self) -> None:
        if self.guard is None:
            return
        try:
            self.guard.verify()
        except TieBroken:
            self._drop()
            raise

    def _drop(self) -> None:
        """Take the guard away without a look: what is raised now has said it."""
        opened, self.guard = self.guard, None
        if opened is not None:
            opened.close()
