"""`tiecheck.guard` over drawn lives of a tied GPT: silent while the head is the table by identity, else the line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tie_kinds import marked_line
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, prune

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.arange(6)[None]


class UnfitError(Exception):
    """An operation needs a plain head, which an earlier one of the row has wrapped."""


class GPT(nn.Module):
    """A language model of two blocks, tied as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(12, 8)
        block = (nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.blocks = nn.ModuleList(nn.Sequential(*map(copy.deepcopy, block)) for _ in range(2))
        self.lm_head = nn.Linear(8, 12, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.lm_head(x)


class Lora(nn.Module):
    """A layer of one's own around another."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.more = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


class TiedHead(nn.Module):
    """A head without a weight of its own."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table.weight.t()


def innermost(layer: Any) -> Any:
    while isinstance(layer, Lora):
        layer = layer.base
    return layer.table if isinstance(layer, TiedHead) else layer


def own_head(model: Any) -> Any:
    """The innermost layer of the head, where it has a weight of its own."""
    layer = model.lm_head
    while isinstance(layer, Lora):
        layer = layer.base
    if not isinstance(layer, nn.Linear):
        raise UnfitError
    return layer


def is_tied(model: Any) -> bool:
    """The truth: the weight that the head uses is the very object that the embedding looks up in."""
    head, table = innermost(model.lm_head), innermost(model.wte)
    return head is not None and getattr(head, "weight", None) is table.weight


def step(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(IDS).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()  # <-


def move(model: Any) -> None:
    model.to("cpu").bfloat16().float().requires_grad_(True).eval().train()  # <-


def load(model: Any) -> None:
    model.load_state_dict(model.state_dict())  # <-


def swap(model: Any) -> None:
    torch.utils.swap_tensors(innermost(model.wte).weight, nn.Parameter(torch.randn(12, 8)))  # <-


def grow(model: Any) -> None:
    model.blocks.append(nn.Sequential(nn.Linear(8, 8)))
    model.blocks[0] = copy.deepcopy(model.blocks[1])
    model.blocks[-1][0] = nn.utils.weight_norm(model.blocks[-1][0])  # <-


def checkpointed(model: Any) -> None:
    torch.utils.checkpoint.checkpoint(model, IDS, use_reentrant=False)
    torch.func.functional_call(model, dict(model.named_parameters()), (IDS,))  # <-


def wrap(model: Any) -> None:
    model.lm_head = Lora(model.lm_head)  # <-


def wrap_table(model: Any) -> None:
    model.wte = Lora(model.wte)  # <-


def read_the_table(model: Any) -> None:
    model.lm_head = TiedHead(innermost(model.wte))  # <-


def compiled(model: Any) -> None:
    torch.compile(model, backend="eager")(IDS)
    model.more = nn.Linear(2, 2)  # <-


def quantise_blocks(model: Any) -> None:
    kept = model.lm_head
    model.lm_head = None
    quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear}, inplace=True)
    model.lm_head = kept  # <-


def tie_again(model: Any) -> None:
    model.lm_head = nn.Linear(8, 12, bias=False)
    model.lm_head.weight = innermost(model.wte).weight  # <-


KEEP = (step, move, load, swap, grow, checkpointed, wrap, wrap_table, read_the_table, compiled, quantise_blocks,
        tie_again)  # fmt: skip


def copied_head(model: Any) -> None:
    model.lm_head = copy.deepcopy(model.lm_head)  # <-


def wrapped_copy(model: Any) -> None:
    model.lm_head = Lora(copy.deepcopy(model.lm_head))  # <-


def assigned(model: Any) -> None:
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)  # <-


def new_weight(model: Any) -> None:
    own_head(model).weight = nn.Parameter(torch.zeros(12, 8))  # <-


def new_table(model: Any) -> None:
    model.wte = nn.Embedding(12, 8)  # <-


def gone(model: Any) -> None:
    model.lm_head = nn.Identity()  # <-


def quantised(model: Any) -> None:
    quantize_dynamic(model.eval(), {nn.Linear}, inplace=True)  # <-


def registered(model: Any) -> None:
    head = own_head(model)
    head.register_parameter("weight", nn.Parameter(head.weight.detach()))  # <-


def emptied(model: Any) -> None:
    model.to("meta")  # <-


def set_by_path(model: Any) -> None:
    model.set_submodule("lm_head", nn.Linear(8, 12, bias=False))  # <-


def normed(model: Any) -> None:
    parametrizations.weight_norm(own_head(model))  # <-


def normed_as_before(model: Any) -> None:
    nn.utils.weight_norm(own_head(model))  # <-


def pruned(model: Any) -> None:
    prune.random_unstructured(own_head(model), "weight", 0.5)  # <-


def extra_state(model: Any) -> None:
    class Head(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"x": torch.ones(1)}

        def set_extra_state(self, _state: Any) -> None:
            self._parameters["weight"] = nn.Parameter(self.weight.detach().clone())

    head = Head(8, 12, bias=False)
    head.weight = innermost(model.wte).weight
    model.lm_head = head
    model.load_state_dict(model.state_dict(), strict=False)  # <-


BREAK = (copied_head, wrapped_copy, assigned, new_weight, new_table, gone, quantised, registered, emptied, set_by_path,
         normed, normed_as_before, pruned, extra_state)  # fmt: skip


REFUSALS = (UnfitError, AttributeError, RuntimeError, TypeError)
"""What an operation raises on what an earlier one left: a head that is wrapped, on meta, packed, without its weight."""


def refusals(row: list[Callable[[Any], None]]) -> dict[int, type[Exception]]:
    """Number of each operation of a row that raises where nobody watches, with what it raises."""
    model, found = GPT(), {}
    for number, do in enumerate(row):
        try:
            do(model)
        except REFUSALS as error:
            found[number] = type(error)
    return found


def told(row: list[Callable[[Any], None]]) -> tuple[Any, Any]:
    """Live a row of operations under a guard: the first that broke the tie by identity, and what is raised."""
    model, culprit = GPT(), None
    refused = refusals(row)
    assert is_tied(model)
    try:
        with tiecheck.guard(model) as g:
            for number, do in enumerate(row):
                was = is_tied(model)
                try:
                    do(model)
                except REFUSALS as error:
                    if refused.get(number) is not type(error):  # the guard's doing
                        raise
                if is_tied(model):
                    culprit = None
                    assert g.verify() == (), do.__name__
                elif was:
                    culprit = do
    except tiecheck.TieBroken as broken:
        return culprit, broken
    return culprit, None


def lived(row: list[Callable[[Any], None]]) -> None:
    """Hold the word of a guard over a row of operations against identity."""
    culprit, broken = told(row)
    words = [do.__name__ for do in row]
    assert (culprit is None) == (broken is None), (words, str(broken))
    if broken is not None:
        (one,) = broken.broken
        assert one.seen
        assert (one.since.path, one.since.line) == (__file__, marked_line(culprit)), words
        assert one.operation
        assert "site-packages" not in str(broken)


@pytest.mark.parametrize("do", [*KEEP, *BREAK], ids=lambda do: do.__name__)
def test_each_alone(do: Callable[[Any], None]) -> None:
    lived([do])


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(n, marks=pytest.mark.slow) for n in range(24, 400))])
def test_what_keeps_the_tie_is_silent_and_the_first_break_is_blamed(seed: int) -> None:
    draw = random.Random(seed)
    row = draw.choices(KEEP, k=draw.randint(2, 6))
    lived(row if seed % 4 == 0 else [*row, draw.choice(BREAK), *draw.choices((step, load, grow), k=draw.randint(0, 2))])


def test_a_quantised_copy_that_comes_back_is_told_and_the_way_out_is_silent() -> None:
    model = GPT()
    with pytest.raises(tiecheck.TieBroken, match="Leave that layer out") as caught, tiecheck.guard(model) as g:
        made = g.watch(quantize_dynamic(model, {nn.Linear}))
    assert "form of its own" in str(caught.value)
    assert g.report.findings[0].code == "TIE401"
    config = torch.ao.quantization.default_dynamic_qconfig
    with tiecheck.guard(model) as g:  # what the advice says: the layers are named, and the head is not
        made = g.watch(quantize_dynamic(model, {"blocks": config}))
    assert made.lm_head.weight is made.wte.weight


def test_a_scripted_model_is_watched() -> None:
    model = GPT()
    with tiecheck.guard(model) as g:
        g.watch(torch.jit.script(model))
