"""The facts of a module: a contract under each name of its class, and what a checkpoint adds to what was read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import built
from torch import nn

from tiecheck.config.options import Config
from tiecheck.facts.live import live_class
from tiecheck.facts.opening import facts_of, module_facts
from tiecheck.facts.registry import Facts
from tiecheck.live.live_facts import contract_of
from tiecheck.records.words import Unknown
from tiecheck.rules.cases import PAIR as LLAMA
from tiecheck.rules.cases import live_llama, traced_pass, use_of
from tiecheck.targets.parse import parse_target

pytestmark = pytest.mark.filterwarnings("ignore")

PAIR = ("head.weight", "emb.weight")


class Pair(nn.Module):
    """An embedding and a head, apart."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)


@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda one: one, [""]),
        (nn.DataParallel, [""]),
        (torch.compile, [""]),
        (lambda one: nn.ModuleDict({"lm": one}), ["lm."]),
        (lambda one: nn.ModuleList([one, nn.Sequential(Pair())]), ["0.", "1.0."]),
        (lambda one: nn.DataParallel(nn.ModuleDict({"a": one, "b": one})), ["a."]),
    ],
    ids=["plain", "DataParallel", "compiled", "inside", "two", "aliased"],
)
def test_a_contract_names_each_module_of_its_class_as_the_user_does(wrap, prefixes: list[str]) -> None:
    asked = Config(ties={"Pair": [PAIR]}, ties_from="tiecheck.toml")
    contract = contract_of(wrap(Pair()), asked)
    assert contract.groups == tuple(tuple(prefix + name for name in PAIR) for prefix in prefixes)
    assert contract.origin == "tiecheck.toml"
    assert contract_of(wrap(Pair()), Config()).groups == ()


def facts(where: Path, **options):
    return facts_of(parse_target(str(where)), Config(**options))


@pytest.mark.parametrize("stored", [True, False, None])
def test_a_head_is_stored_or_not_and_neither_where_the_file_has_other_names(stored, tmp_path: Path) -> None:
    built(tie_word_embeddings=False).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if stored is not True:
        del tensors["lm_head.weight"]
    if stored is None:
        tensors = {f"{name}.renamed": value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert [head.stored for head in facts(tmp_path, live=True).get("heads")] == [stored]


def test_only_a_loaded_model_tells_how_its_groups_were_stored(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
    save_file(tensors | head, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert [tie.stored for tie in facts(tmp_path, load=True).get("declared_ties")] == ["separate"]
    assert [tie.stored for tie in facts(tmp_path, live=True).get("declared_ties")] == [None]


@pytest.mark.parametrize("script", [torch.jit.script, lambda pair: torch.jit.trace(pair, torch.ones(1, 2))])
def test_a_module_that_cannot_be_read_is_unknown_to_every_fact_of_it(script) -> None:
    found = module_facts(script(nn.Sequential(nn.Linear(2, 2))), Config())
    for name in ("live_ties", "live_class", "aliases", "declared_ties", "heads", "key_problems"):
        assert isinstance(found.get(name), Unknown), name
    assert "TorchScript" in found.get("live").reason


def test_mistakes_in_a_declaration_are_told_of_a_class_that_cannot_be_built(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["NobodysModel"], "model_type": "nobody"}))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = facts(tmp_path, live=True)
    assert isinstance(found.get("built"), Unknown)
    assert found.get("key_problems") == found.get("live") == found.get("built")


def test_parts_of_a_live_model_are_handed_on_and_two_uses_of_one_tensor_are_told() -> None:
    model = live_llama()
    made = Facts({"live": model})
    assert (made.get("live_ties"), made.get("heads")) == (model.ties, model.heads)
    assert live_class(model, None).class_name == model.class_name
    looked_up, multiplied = use_of(*LLAMA), use_of(*LLAMA, role="linear")
    assert live_class(model, traced_pass(looked_up, multiplied)).twice == (LLAMA,)
    assert live_class(model, traced_pass(multiplied)).twice == live_class(model, None).twice == ()
