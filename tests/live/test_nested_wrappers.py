"""Fixes of models in wrappers of wrappers, carried out as they are written."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mend_runs import APART, paste
from peft import LoraConfig, get_peft_model
from rule_failures import gpt2, llama
from tiny_models import PlainNet
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")


class Listed(nn.Module):
    """The same as `PlainNet`, in a list that is called as PEFT calls what it wraps, and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleList([nn.Embedding(16, 8), nn.Linear(8, 8)])
        self.parts = nn.ModuleDict({"0": nn.Linear(8, 16, bias=False), "c_attn": nn.Linear(8, 8)})
        self.parts["0"].weight = self.model[0].weight


class Own(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = model


MODELS: dict[Callable[[], Any], tuple[str, str]] = {
    PlainNet: ("emb.weight", "head.weight"),
    Listed: ("model.0.weight", "parts.0.weight"),
    llama: ("model.embed_tokens.weight", "lm_head.weight"),
    gpt2: ("transformer.wte.weight", "lm_head.weight"),
}


def peft(model: Any) -> Any:
    wanted = ("q_proj", "c_attn")
    return get_peft_model(model, LoraConfig(target_modules=[w for w in wanted if w in str(model)]))  # type: ignore[arg-type]


BARE: dict[str, Callable[[Any], Any]] = {
    "compile": torch.compile,
    "sequential": nn.Sequential,
    "own": Own,
    "data parallel": nn.DataParallel,
    "average": torch.optim.swa_utils.AveragedModel,
}
HELD: dict[str, Callable[[Any], Any]] = {"ddp": DistributedDataParallel, "peft": peft}
"""Wrappers that a tie has to come before, which its fix says."""


@pytest.fixture(autouse=True, scope="module")
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def part(model: Any, names: tuple[str, str]) -> None:
    owner, _, attribute = names[1].rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Parameter(model.get_parameter(names[1]).detach() + 1))


def one_memory(model: Any, names: tuple[str, str]) -> None:
    owner, _, attribute = names[1].rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Parameter(model.get_parameter(names[1]).detach()))


def wrapped(model: Any, nest: list[str], *, held: bool = True) -> Any:
    for name in nest:
        if name in BARE:
            model = BARE[name](model)
        elif held:
            model = HELD[name](model)
    return model


def pair(model: nn.Module) -> tuple[Any, Any]:
    """The table and the head that a model really has inside, whatever it is wrapped in."""
    tables = [m for m in model.modules() if type(m) is nn.Embedding]
    lines = [m for m in model.modules() if type(m) is nn.Linear]
    ((table, head),) = [(t, m) for t in tables for m in lines if t.weight.shape == m.weight.shape]
    return table, head


class LoRA(nn.Module):
    """LoRA by hand over a head."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, self.up = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x: Any) -> Any:
        return self.base(x) + self.up(x)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("within", [False, True], ids=["the tie alone", "a second layer"])
def test_a_wrapped_head_of_transformers_is_one_finding_and_each_fix_saves_and_loads(
    build: Any, within: bool, tmp_path: Path
) -> None:
    base = type(build())

    class Wrapped(base):  # type: ignore[misc,valid-type]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            wrap(self)

    def wrap(model: Any) -> None:
        head = LoRA(model.lm_head)
        model.lm_head = nn.Sequential(head) if within else head

    def made() -> Any:
        torch.manual_seed(0)
        model = build()
        wrap(model)
        model.__class__ = type(base.__name__, (base,), {})
        return model

    (finding,) = tiecheck.check(made()).findings
    assert finding.code == "TIE304"
    with pytest.raises(RuntimeError, match="shared tensors"):
        made().save_pretrained(tmp_path / "broken")
    choices = []
    for edit in finding.edits:
        model = made()
        if edit.choice == "tied":
            (step,) = edit.steps
            Wrapped._tied_weights_keys = type(model)._tied_weights_keys = ast.literal_eval(
                (step.code or "").partition("=")[2].strip()
            )
        else:
            Wrapped._tied_weights_keys = base._tied_weights_keys
            paste(edit, model)
        choices.append(edit.choice)
        model.save_pretrained(tmp_path / edit.choice)
        again = Wrapped.from_pretrained(tmp_path / edit.choice)
        head = next(m for m in again.lm_head.modules() if type(m) is nn.Linear)
        assert (head.weight is again.get_input_embeddings().weight) is (edit.choice == "tied")
        ids = torch.arange(5)[None]
        assert torch.equal(model.eval()(ids).logits, again(ids).logits)
    assert choices == ["tied", "apart"]


@pytest.mark.parametrize("change", [part, one_memory, None], ids=["apart", "one memory", "tied"])
@pytest.mark.parametrize("seed", range(40))
def test_each_fix_of_a_drawn_nest_runs_and_does_what_it_says(seed: int, change: Any) -> None:
    draw = random.Random(seed)
    build, names = draw.choice(list(MODELS.items()))
    nest = draw.choices([*BARE, *HELD], k=draw.randint(1, 3))
    nest = [name for n, name in enumerate(nest) if name != "peft" or "peft" not in nest[:n]]

    def made(*, held: bool = True) -> Any:
        torch.manual_seed(0)
        model = build()
        if change is not None:
            change(model, names)
        return wrapped(model, nest, held=held)

    options = {"ties": [names]} if build in (PlainNet, Listed) and change is part else {}
    report = tiecheck.check(made(), **options)
    assert report.errors == ()
    ran = 0
    for finding in report.findings:
        for edit in finding.edits:
            if {step.kind for step in edit.steps} != {"run-python"}:
                continue
            before = "not wrapped by" in (edit.when or "")
            model = made(held=not before)
            paste(edit, model)
            table, head = pair(model)
            assert (table.weight is head.weight) is (edit.choice not in APART), (nest, edit)
            ran += 1
    if change is part:
        assert ran, report
