"""TIE316 and TIE318: what looks tied and is not, and what is one where several were meant."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from live_failures import found, gpt, said, small_llama
from mend_runs import paste
from torch import nn

import tiecheck
from tiecheck.rules.live.members import EqualLiveCopies
from tiecheck.rules.live.seen import RepeatedModule


def copied(model: Any) -> Any:
    """A hand-written loader that copies where it should share."""
    with torch.no_grad():
        model.lm_head.weight.copy_(model.wte.weight)
    return model


def untied_llama() -> Any:
    model = small_llama(tie_word_embeddings=False)
    model.lm_head.load_state_dict(model.model.embed_tokens.state_dict())
    return model


@pytest.mark.parametrize("build", [lambda: copied(gpt(tied=False)), untied_llama])
def test_an_equal_copy_is_noted_until_a_step_parts_it(build: Callable[[], Any]) -> None:
    model = build()
    assert found(model) == {EqualLiveCopies.code: "info"}
    optimizer = torch.optim.SGD(model.lm_head.parameters(), lr=1.0)
    model.lm_head.weight.sum().backward()
    optimizer.step()
    assert found(model) == {}


def test_what_is_tied_zero_or_shares_memory_is_no_copy() -> None:
    assert found(gpt(tied=True)) == {}
    zeros = gpt(tied=False)
    for parameter in zeros.parameters():
        nn.init.zeros_(parameter)
    assert found(zeros) == {}
    memory = gpt(tied=False)
    memory.lm_head.weight = nn.Parameter(memory.wte.weight)
    assert found(memory) == {"TIE302": "error"}


class Biased(nn.Module):
    """A layer that adds a table, which the layers were to share."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.q, self.rel_bias = nn.Linear(8, 8), table


@pytest.mark.parametrize("count", [2, 4])
def test_a_shared_table_that_was_copied_with_each_layer_is_one_note_and_its_fix_ties_all(count: int) -> None:
    layer = Biased(nn.Embedding(6, 6))
    model = nn.ModuleDict({"layers": nn.ModuleList(copy.deepcopy(layer) for _ in range(count))})
    names = tuple(f"layers.{i}.rel_bias.weight" for i in range(count))
    assert found(model) == {EqualLiveCopies.code: "info"}
    (finding,) = tiecheck.check(model).findings
    assert finding.names == names
    assert found(model, ties=[["layers.*.rel_bias.weight"]]) == {"TIE301": "error"}
    paste(finding.edits[0], model)
    assert [tie.names for tie in tiecheck.find_ties(model)] == [names]
    assert found(model) == {}
    apart = nn.ModuleDict({"layers": nn.ModuleList(Biased(nn.Embedding(6, 6)) for _ in range(count))})
    assert found(apart) == {}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), count, enable_nested_tensor=False)
    assert found(encoder) == {}, "layers are made by deepcopy and have no table"


@pytest.mark.parametrize("count", [1, 2])
def test_a_copy_of_a_table_beside_it_is_one_note_and_its_fix_ties_all(count: int) -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(12, 8), "wpe": nn.Embedding(12, 8), "ln": nn.LayerNorm(8)})
    for number in range(count):
        model[f"ff_out{number}"] = copy.deepcopy(model["wte"])
    (finding,) = tiecheck.check(model).findings
    assert (finding.code, finding.severity) == (EqualLiveCopies.code, "info")
    paste(finding.edits[0], model)
    assert [len(tie.names) for tie in tiecheck.find_ties(model)] == [count + 1]
    assert found(model) == {}
    model["momentum"] = copy.deepcopy(model["wpe"]).requires_grad_(False)
    assert found(model) == {}, "an average that nobody trains"


def test_a_teacher_beside_its_student_is_no_copy_of_it() -> None:
    student = gpt(tied=True)
    assert found(nn.ModuleDict({"student": student, "teacher": copy.deepcopy(student)})) == {}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)


@pytest.mark.parametrize("holder", [nn.ModuleList, lambda blocks: nn.Sequential(*blocks)])
def test_one_block_three_times_and_the_mend_parts_it(holder: Callable[[Any], nn.Module]) -> None:
    model = nn.Module()
    model.heads = holder([Block()] * 3)  # type: ignore[assignment]  # a module
    single = Block()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in single.parameters())
    assert found(model) == {RepeatedModule.code: "info"}
    assert "heads.0, heads.1 and heads.2 are one Block: it stands 3 times in heads" in said(model, RepeatedModule.code)
    (finding,) = tiecheck.check(model).findings
    paste(finding.edits[0], model)
    assert found(model) == {}
    assert sum(p.numel() for p in model.parameters()) == 3 * sum(p.numel() for p in single.parameters())


def test_a_list_of_layers_of_their_own_says_nothing() -> None:
    assert found(nn.ModuleList(Block() for _ in range(3))) == {}
