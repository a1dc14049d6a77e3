"""A callback of transformers' Trainer (5.23), and of what is built on it: TRL, PEFT's examples."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

from tiecheck.guard.training_watch import TrainingWatch


class TieCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Watches the ties of the model that a Trainer trains.

    ```python
    trainer = Trainer(model, args, train_dataset=data, callbacks=[tiecheck.TieCallback(every=100)])
    ```

    It looks when the training begins and ends, after each save (at what was written too), and every so many steps.
    `TieBroken` names the group, the operation and the line.
    """

    def __init__(self, *, every: int = 0, on_break: Any = "raise") -> None:
        self._watch = TrainingWatch(every=every, on_break=on_break)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Remember what is tied."""
        self._watch.start(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Look, every so many steps."""
        self._watch.step(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Look at the model, and at what was saved of it."""
        self._watch.saved(model, os.path.join(str(args.output_dir), f"checkpoint-{state.global_step}"))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Look a last time."""
        self._watch.end()
