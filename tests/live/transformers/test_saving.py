"""What is said of a save against `save_pretrained` itself: it refuses, loses a tie, or brings every tie back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tiny_models import built, groups_of
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers.pytorch_utils import Conv1D

import tiecheck
from tiecheck.live.mismatches import unfit_ties
from tiecheck.live.module_graph import CAP, ModuleGraph
from tiecheck.live.registrations import Registrations
from tiecheck.live.ties import ties_of
from tiecheck.live.transformers.declarations import read_declarations
from tiecheck.live.transformers.saving import Unsaved, unsaved_ties

pytestmark = pytest.mark.filterwarnings("ignore")

GATE, UP = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"


def unsaved(module: nn.Module) -> Unsaved:
    graph = ModuleGraph(module)
    return unsaved_ties(graph, read_declarations(graph, CAP), ties_of(Registrations(module, buffers=False), CAP))


def tie(model: nn.Module, *names: str) -> None:
    held = model.get_parameter(names[0])
    for name in names[1:]:
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, held)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration"])
def test_activation_checkpointing_around_any_module_leaves_the_names_of_a_save(
    name: str, seed: int, tmp_path: Path
) -> None:
    model = built(name)
    before = groups_of(model)
    paths = [path for path, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding, Conv1D))]
    for path in random.Random(seed).sample(paths, len(paths) // 2):
        model.set_submodule(path, checkpoint_wrapper(model.get_submodule(path)))
    assert unsaved(model) == Unsaved((), ())
    model.save_pretrained(tmp_path)
    assert groups_of(type(model).from_pretrained(tmp_path)) == before


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_what_the_class_declares_comes_back_and_nothing_is_said(name: str, tmp_path: Path) -> None:
    model = built(name)
    assert unsaved(model) == Unsaved((), ())
    model.save_pretrained(tmp_path)
    assert groups_of(type(model).from_pretrained(tmp_path)) == groups_of(model)


@pytest.mark.parametrize(
    "names",
    [
        (GATE, UP),
        ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.gate_proj.weight", UP),
    ],
)
def test_a_tie_that_nobody_declares_is_refused_by_the_library(names: tuple[str, ...], tmp_path: Path) -> None:
    model = built()
    tie(model, *names)
    (problem,) = unsaved(model).problems
    assert (problem.form, problem.names, problem.class_name) == ("raises", tuple(sorted(names)), "LlamaForCausalLM")
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


def test_equal_copies_and_memory_alone_are_not_told_of() -> None:
    model = built()
    gate = model.get_parameter(GATE)
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(gate.detach().clone())
    assert unsaved(model) == Unsaved((), ())
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(gate.detach())
    assert unsaved(model) == Unsaved((), ())


def test_a_model_in_a_plain_module_is_judged_by_its_own_save_and_a_plain_one_not_at_all() -> None:
    inner = built()
    tie(inner, GATE, UP)
    (problem,) = unsaved(nn.ModuleDict({"lm": inner})).problems
    assert problem.names == (f"lm.{GATE}", f"lm.{UP}")
    pair = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    tie(pair, "a.weight", "b.weight")
    assert unsaved(pair) == Unsaved((), ())
    assert torch.equal(pair["a"].weight, pair["b"].weight)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration"])
def test_a_table_that_grew_without_its_config_is_told_where_no_load_fits(name: str, seed: int, tmp_path: Path) -> None:
    draw, model = random.Random(f"{name}{seed}"), built(name)
    more, how = draw.choice((0, 1, 5)), draw.choice(("by hand", "by the library", "config after"))
    words = model.config.vocab_size
    model.resize_token_embeddings(words + more, mean_resizing=False)
    if how == "by hand":  # as those do it who put in a longer table themselves
        model.config.vocab_size = words
    if how == "config after":
        model.config.vocab_size += 1
    told = unfit_ties(model)
    model.save_pretrained(tmp_path)
    try:
        type(model).from_pretrained(tmp_path)
        raised = False
    except RuntimeError:
        raised = True
    assert bool(told) == raised
    assert all(one.why.startswith(tuple(one.names)) for one in told)
    loud = [finding.code for finding in tiecheck.check(model).findings if finding.severity == "error"]
    assert loud == ["TIE207"] * raised
