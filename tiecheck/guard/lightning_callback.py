"""A callback of Lightning's Trainer (2.6)."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback

from tiecheck.guard.training_watch import TrainingWatch


class TieLightningCallback(Callback):  # type: ignore[misc]  # lightning may not be installed where types are checked
    """Watches the ties of the module that a Lightning Trainer fits; see `TieCallback`."""

    def __init__(self, *, every: int = 0, on_break: Any = "raise") -> None:
        super().__init__()
        self._watch = TrainingWatch(every=every, on_break=on_break)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002  # Lightning's signature
        """Remember what is tied, as it was moved and wrapped."""
        self._watch.start(pl_module)

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Look, every so many steps."""
        self._watch.step(trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Look a last time."""
        self._watch.end()
