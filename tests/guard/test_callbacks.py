"""Real trainings, broken on purpose: a GPT on text that Python ships, under a guard and under the callbacks."""

from __future__ import annotations

import copy
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lanes import sampled
from rule_failures import llama
from tie_kinds import marked_line
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import tiecheck
from tiecheck.guard.errors import TieWarning
from tiecheck.guard.trainer_callback import TieCallback

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*", "ignore:.*pin_memory.*")

TEXT = torch.tensor(list(inspect.getsource(textwrap).encode()))
"""Some 19,000 bytes of English and Python."""


class TinyGpt(nn.Module):
    """A GPT of one block over bytes, tied as people tie it; nobody declares anything."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(128, 16), nn.Embedding(32, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, 128, bias=False)
        self.lm_head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.lm_head(self.norm(self.block(x, src_mask=mask, is_causal=True)))


def new_parameter(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # <-


def assigned_state(model: Any) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)  # <-


def copied_head(model: Any) -> None:
    model.lm_head = copy.deepcopy(model.lm_head)  # <-


WAYS = (new_parameter, assigned_state, copied_head)


def train(model: nn.Module, steps: int, at: Callable[[int], None]) -> list[float]:
    """Train, and return the losses; `at` is called with the number of each step."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        at(step)
        starts = torch.randint(0, len(TEXT) - 33, (8,))
        rows = torch.stack([TEXT[start : start + 33] for start in starts])
        loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_training_that_keeps_its_tie_is_silent_and_learns() -> None:
    model = TinyGpt()
    with tiecheck.guard(model) as g:
        losses = train(model, 200, lambda _: None)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not g.overwritten


@pytest.mark.parametrize("break_", WAYS, ids=lambda way: way.__name__)
def test_a_training_broken_at_step_50(break_: Callable[[Any], None]) -> None:
    model = TinyGpt()

    def at(step: int) -> None:
        if step == 50:
            break_(model)

    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model):
        train(model, 100, at)
    (one,) = caught.value.broken
    assert (one.since.path, one.since.line) == (__file__, marked_line(break_))
    assert one.names == ("lm_head.weight", "wte.weight")


class BreaksAt(TrainerCallback):
    """Breaks a tie at one step, as a careless callback does."""

    def __init__(self, step: int, way: Callable[[Any], None]) -> None:
        self._step, self._way = step, way

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self._step:
            self._way(model)


def trainer(folder: Path, *callbacks: Any, steps: int = 60) -> Trainer:
    rows = TEXT[TEXT < 64][: 16 * 128].reshape(-1, 16)
    data = [{"input_ids": row, "labels": row} for row in rows]
    args = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_steps=30,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1000,
    )
    return Trainer(llama(), args, train_dataset=data, callbacks=list(callbacks))


def test_the_trainer_under_the_callback(tmp_path: Path) -> None:
    run = trainer(tmp_path, TieCallback(every=10))
    run.train()
    assert (tmp_path / "checkpoint-60" / "model.safetensors").exists()
    assert nn.Module._apply.__module__ == "torch.nn.modules.module"


@pytest.mark.parametrize("break_", sampled(WAYS, 3), ids=lambda way: way.__name__)
def test_the_trainer_broken_at_step_50(break_: Callable[[Any], None], tmp_path: Path) -> None:
    run = trainer(tmp_path, BreaksAt(50, break_), TieCallback(every=5))
    with pytest.raises(tiecheck.TieBroken) as caught:
        run.train()
    assert run.state.global_step == 55
    assert caught.value.broken[0].since.line == marked_line(break_)
    assert nn.Module._apply.__module__ == "torch.nn.modules.module", "nothing stays in place"


def test_the_trainer_may_be_told_only_to_warn(tmp_path: Path) -> None:
    run = trainer(tmp_path, BreaksAt(3, new_parameter), TieCallback(on_break="warn"), steps=6)
    with pytest.warns(TieWarning, match=r"lm_head\.weight"):
        run.train()


def test_a_save_that_lost_what_is_live(tmp_path: Path) -> None:
    """What a saver does that goes by the config: the head has diverged, and is not written."""
    from tiecheck.guard.training_watch import TrainingWatch

    model = llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() + 1)
    watch = TrainingWatch()
    watch.start(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(tiecheck.TieBroken, match="TIE404"):
        watch.saved(model, str(tmp_path))
    model = llama()
    watch.start(model)
    model.save_pretrained(tmp_path)
    watch.saved(model, str(tmp_path))
    watch.end()


def test_lightning_under_its_callback() -> None:
    import lightning.pytorch as lightning

    from tiecheck.guard.lightning_callback import TieLightningCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = TinyGpt()

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.model(batch[:, :-1]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_train_batch_start(self, batch: Any, number: int) -> None:
            if number == 3 and self.breaks:
                new_parameter(self.model)

    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    rows = torch.utils.data.DataLoader(TEXT[: 33 * 40].reshape(-1, 33), batch_size=4)
    for breaks in (False, True):
        module = Module()
        module.breaks = breaks
        run = lightning.Trainer(
            max_epochs=1, callbacks=[TieLightningCallback(every=2)], enable_model_summary=False, **quiet
        )
        if breaks:
            with pytest.raises(tiecheck.TieBroken) as caught:
                run.fit(module, rows)
            assert caught.value.broken[0].since.line == marked_line(new_parameter)
        else:
            run.fit(module, rows)


def test_the_callback_is_reached_by_its_short_name() -> None:
    assert tiecheck.TieCallback is TieCallback
