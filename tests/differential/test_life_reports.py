"""Reports on live models, the user's way: what is said of each, and that its fix, executed, ends it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import infer_auto_device_map, init_empty_weights
from rule_failures import gpt2
from tie_kinds import Param
from torch import Tensor, nn

import tiecheck

pytestmark = pytest.mark.filterwarnings("ignore")


class Attention(nn.Module):
    """A layer that reads a table of positions."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.rel_bias = table

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return x + (self.q(x) @ x.transpose(1, 2) + self.rel_bias.weight[:n, :n]).softmax(-1) @ x


class Encoder(nn.Module):
    """Layers cloned one by one, as `nn.TransformerEncoder` does."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = Attention(nn.Embedding(6, 6))
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def tables(model: Encoder) -> list[Tensor]:
    return [layer.rel_bias.weight for layer in model.layers]


def step(model: Encoder) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(2, 5, 8)).square().sum().backward()
    optimizer.step()


def repaired(model: Any, report: Any, code: str) -> None:
    """Run what the finding of a code says."""
    (finding,) = [f for f in report.findings if f.code == code]
    for one in finding.edits[0].steps:
        exec(one.code, {"model": model})


@pytest.mark.parametrize("layers", [2, 3, 5])
def test_a_table_cloned_layer_by_layer(layers: int) -> None:
    """c13: a note without a contract, an error with one by pattern, and each fix ties all of them."""
    model = Encoder(layers)
    report = tiecheck.check(model)
    (note,) = report.findings
    assert (note.code, note.severity, report.targets[0].status) == ("TIE316", "info", "pass")
    assert set(note.names) == {f"layers.{i}.rel_bias.weight" for i in range(layers)}
    repaired(model, report, "TIE316")
    assert len(set(map(id, tables(model)))) == 1
    model = Encoder(layers)
    contract = [["layers.*.rel_bias.weight"]]
    repaired(model, tiecheck.check(model, ties=contract), "TIE301")
    assert len(set(map(id, tables(model)))) == 1
    assert tiecheck.check(model, ties=contract).targets[0].status == "pass"
    step(model)
    assert len(set(map(id, tables(model)))) == 1


def test_a_table_cloned_under_a_guard_is_told_with_its_line() -> None:
    """c13, for a model that had the tie before the layers were cloned."""
    model = Encoder(1)
    model.layers = nn.ModuleList(Attention(model.layers[0].rel_bias) for _ in range(3))
    with pytest.raises(tiecheck.TieBroken, match=r"model\.layers = ") as caught, tiecheck.guard(model):
        model.layers = nn.ModuleList(map(copy.deepcopy, model.layers))
    assert caught.value.broken[0].since.path == __file__


class Pointer(nn.Module):
    """A head that registers the embedding's parameter a second time."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


class Tables(nn.Module):
    """A recurrent model with tables by name, one of them under the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"0": nn.Embedding(40, 8)})
        self.body = nn.GRU(8, 8, batch_first=True)
        self.output_layer = Pointer(self.embeddings["0"])

    def forward(self, ids: Tensor) -> Tensor:
        return self.output_layer(self.body(self.embeddings["0"](ids))[0])


def reloaded_tables(model: Any) -> None:
    model.embeddings["0"].weight = nn.Parameter(torch.randn(40, 8))


def reloaded_gpt2(model: Any) -> None:
    model.transformer.wte = nn.Embedding.from_pretrained(0.02 * torch.randn(64, 16), freeze=False)


@pytest.mark.parametrize(
    ("build", "reload", "table"),
    [(Tables, reloaded_tables, "embeddings.0"), (gpt2, reloaded_gpt2, "transformer.wte")],
)
def test_an_embedding_reloaded_beside_a_head_that_points_at_the_old_one(
    build: Callable[[], Any], reload: Callable[[Any], None], table: str
) -> None:
    """c04: the guard names the line, the ties as built are missed, and each fix of the contract's finding ends it."""
    model = build()
    before = [tie.names for tie in tiecheck.find_ties(model)]
    with pytest.raises(tiecheck.TieBroken, match=table) as caught, tiecheck.guard(model):
        reload(model)
    assert caught.value.broken[0].since.line == reload.__code__.co_firstlineno + 1
    with pytest.raises(AssertionError, match="1 missing"):
        tiecheck.assert_ties_match(model, before)
    contract = before
    (finding,) = (f for f in tiecheck.check(model, ties=contract).findings if f.code in ("TIE301", "TIE306"))
    for edit in finding.edits:
        model = build()
        reload(model)
        for step in edit.steps:
            exec(step.code, {"model": model})
        if edit.choice != "untied":
            assert tiecheck.check(model, ties=contract).targets[0].status == "pass"
            tiecheck.assert_ties_match(model, before)


class Aliased(Param):
    """A tie with a second path to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = self.emb


@pytest.mark.parametrize("build", [Param, Aliased])
def test_a_strict_export_merges_the_names_of_a_tie_and_breaks_none(build: type[Param]) -> None:
    """c06: one name is left of several, and an export of a tie that is lost has all of them."""
    model = build()
    before = [tie.names for tie in tiecheck.find_ties(model)]
    made = torch.export.export(model, (torch.arange(4),), strict=True)
    exported = made.module()
    assert len(list(exported.parameters())) == 1
    tiecheck.assert_ties_match(exported, before)
    tiecheck.assert_ties_match(torch.export.unflatten(made), before)
    model.lin.weight = nn.Parameter(torch.randn(6, 6))
    with pytest.raises(AssertionError, match="missing"):
        tiecheck.assert_ties_match(torch.export.export(model, (torch.arange(4),), strict=True).module(), before)


SIZES = {"vocab_size": 128, "vocab_size_per_layer_input": 128, "hidden_size": 32, "hidden_size_per_layer_input": 8}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16}


def gemma4(layers: int) -> Any:
    config = transformers.Gemma4TextConfig(**SIZES, **HEADS, num_hidden_layers=layers, intermediate_size=64)
    torch.manual_seed(0)
    return transformers.Gemma4ForCausalLM(config)


@pytest.mark.parametrize("layers", [4, 6])
def test_a_map_that_leaves_a_buffer_out_is_refused_as_the_library_refuses_it(layers: int, tmp_path: Path) -> None:
    """c16: the planner splits a layer without its class's word, and gives a buffer no device."""
    model = gemma4(layers)
    model.save_pretrained(tmp_path)
    total = sum(p.numel() * 4 for p in model.parameters())
    with init_empty_weights():
        empty = transformers.Gemma4ForCausalLM(model.config)
    for budget in range(total // 6, total, 1500):
        plan = infer_auto_device_map(empty, max_memory={0: budget, "cpu": 10 * total})
        left = [n for n, _ in empty.named_buffers() if not any(n == k or n.startswith(f"{k}.") or not k for k in plan)]
        if left:
            break
    assert left
    assert all(name.endswith("layer_scalar") for name in left)
    plan = {name: "cpu" if device == 0 else "disk" for name, device in plan.items()}  # what this machine has
    plan["lm_head"] = plan["model.embed_tokens"]  # the tie is another matter
    with pytest.raises(ValueError, match="layer_scalar"):
        type(model).from_pretrained(tmp_path, device_map=plan, offload_folder=tmp_path / "off")
    with pytest.raises(tiecheck.TiecheckError, match="layer_scalar"):
        tiecheck.gate(tmp_path, device_map=plan)
    mended = plan | dict.fromkeys(left, "cpu")  # "add a key for each"
    assert tiecheck.gate(tmp_path, device_map=mended, check=False).ok
    type(model).from_pretrained(tmp_path, device_map=mended, offload_folder=tmp_path / "off")


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_for_the_devices_that_were_named(seed: int, tmp_path: Path) -> None:
    """c16: the machine has no device 0, and the plan is for one that has."""
    model = gemma4(4)
    model.save_pretrained(tmp_path)
    total = sum(p.numel() * 4 for p in model.parameters())
    memory = {0: random.Random(seed).randint(total // 2, total), "cpu": 10 * total}
    gate = tiecheck.gate(tmp_path, device_map="auto", max_memory=memory, check=False)
    placement = gate.report.targets[0].placement
    for plan in placement.plans:
        assert set(plan.memory) == {0, "cpu"}
        assert 0 in plan.device_map.values()
    whole = infer_auto_device_map(model, max_memory=dict(memory), no_split_module_classes=model._no_split_modules)
    assert dict(placement.plans[-1].device_map) == dict(whole)
