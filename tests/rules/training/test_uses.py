"""TIE704 to 706 and TIE406 against their failures as torch produces them, and the traps beside them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import tiecheck
from tiecheck.rules.training.uses import HalfGradient

IDS = torch.tensor([[1, 2, 3]])
LLAMA = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


class Net(nn.Module):
    """An embedding and a head, and a forward pass that is given."""

    def __init__(self, forward: Any, *, tied: bool = True) -> None:
        super().__init__()
        self.wte, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        if tied:
            self.head.weight = self.wte.weight
        self.way = forward

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.way(self, ids)


def said(model: nn.Module, *codes: str, **options: Any) -> list[tuple[str, str]]:
    report = tiecheck.check(model, uses=True, select=codes or ("TIE406", "TIE704", "TIE705", "TIE706"), **options)
    assert not report.errors
    assert not report.skips
    return [(finding.code, finding.severity) for finding in report.findings]


def plain(self: Net, ids: torch.Tensor) -> torch.Tensor:
    return self.head(self.wte(ids))


def by_embedding(self: Net, ids: torch.Tensor) -> torch.Tensor:
    return F.linear(self.wte(ids), self.wte.weight)


def detached(self: Net, ids: torch.Tensor) -> torch.Tensor:
    return F.linear(self.wte(ids), self.head.weight.detach())


def by_data(self: Net, ids: torch.Tensor) -> torch.Tensor:
    return self.wte(ids) @ self.wte.weight.data.t()


def frozen_lookup(self: Net, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = self.wte(ids)
    return self.head(x)


def teacher(self: Net, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        aim = self.head(self.wte(ids))
    return self.head(self.wte(ids)) - aim


class TestHalfGradient:
    """TIE706."""

    @pytest.mark.parametrize("way", [detached, by_data, frozen_lookup])
    def test_a_use_that_is_cut_off(self, way: Any) -> None:
        model = Net(way)
        model(IDS).square().sum().backward()
        rows = [row for row in range(8) if bool(model.wte.weight.grad[row].any())]
        assert (rows == [1, 2, 3]) == (way is not frozen_lookup)  # of lookups alone, or of the product alone
        assert (HalfGradient.code, "error") in said(model)
        model.way = plain  # the fix
        assert said(model) == []

    @pytest.mark.parametrize("way", [plain, by_embedding, teacher])
    def test_whole_gradients_are_silent(self, way: Any) -> None:
        assert said(Net(way), "TIE706") == []

    def test_a_frozen_tie_and_a_hook_on_its_gradient_are_silent(self) -> None:
        model = Net(plain)
        model.wte.weight.requires_grad = False
        model.head.bias = nn.Parameter(torch.zeros(8))
        assert said(model, "TIE706") == []
        model = Net(plain)
        model.wte.weight.register_hook(lambda grad: grad * torch.tensor([[1.0]] + [[0.0]] * 7))
        assert said(model, "TIE706") == []

    @pytest.mark.parametrize("clone", [False, True], ids=["view", "copy"])
    def test_a_transpose_kept_as_a_plain_tensor(self, clone: bool) -> None:
        class Auto(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enc = nn.Linear(8, 4, bias=False)
                turned = self.enc.weight.t()
                self.dec_w = turned.contiguous().detach() if clone else turned.detach()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return F.linear(self.enc(x), self.dec_w)

        model, x = Auto(), torch.randn(5, 8)
        assert said(model) == [("TIE706", "info" if clone else "warning")]
        F.mse_loss(model(x), x).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert torch.equal(model.dec_w, model.enc.weight.t()) == (not clone)
        assert said(model) == ([] if clone else [("TIE706", "warning")])  # it was left behind: a tensor of its own


class TestSlots:
    """TIE704 and TIE705."""

    def test_a_slot_of_one_tensor_is_a_note(self) -> None:
        assert said(Net(by_embedding)) == [("TIE704", "info")]
        assert said(Net(plain)) == []

    def test_a_declared_head_apart_that_nothing_reads(self) -> None:
        contract = {"ties": [["head.weight", "wte.weight"]]}
        model = Net(by_embedding, tied=False)
        assert ("TIE704", "warning") in said(model, "TIE704", **contract)
        model(IDS).sum().backward()
        assert model.head.weight.grad is None
        model.head.weight = model.wte.weight  # the fix of TIE301
        assert said(model, "TIE704", **contract) == [("TIE704", "info")]

    def test_logits_that_pass_an_untied_head_by(self) -> None:
        model = Net(by_embedding, tied=False)
        before = model(IDS)
        nn.init.ones_(model.head.weight)
        assert torch.equal(model(IDS), before)
        assert said(model) == [("TIE705", "error")]
        model.way = plain  # the fix
        assert said(model) == []

    def test_a_llama_that_decodes_by_its_embedding(self) -> None:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False))
        assert said(model) == []
        model.lm_head.forward = lambda x: F.linear(x, model.model.embed_tokens.weight)
        assert said(model) == [("TIE705", "error")]

    @pytest.mark.parametrize("name", ["T5", "Bart"])
    def test_the_source_of_a_declaration_is_no_dead_slot(self, name: str) -> None:
        sizes = {"T5": {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}}
        bart = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        config = getattr(transformers, f"{name}Config")(vocab_size=32, **sizes.get(name, bart))
        assert said(getattr(transformers, f"{name}ForConditionalGeneration")(config)) == []


class Closure(nn.Module):
    """MPT's way: a head that is a function over the weight."""

    def __init__(self, *, bound: bool = True) -> None:
        super().__init__()
        self.wte = nn.Embedding(8, 4)
        weight = self.wte.weight
        self.head = (lambda x: F.linear(x, weight)) if bound else None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids)
        return self.head(x) if self.head is not None else F.linear(x, self.wte.weight)


class TestCopies:
    """TIE406."""

    @pytest.mark.parametrize("copied", [copy.deepcopy, torch.optim.swa_utils.AveragedModel], ids=["deepcopy", "swa"])
    def test_a_copied_closure_reads_the_original(self, copied: Any) -> None:
        model = Closure()
        assert said(model) == []
        other = copied(model)
        assert said(other) == [("TIE406", "error")]
        before = other(IDS)
        with torch.no_grad():
            model.wte.weight.mul_(2)
        assert not torch.equal(other(IDS), before)
        assert said(copied(Closure(bound=False))) == []  # the fix: the weight is taken from the module

    def test_a_stacked_model_reads_the_original(self) -> None:
        models = [Closure(), Closure()]
        torch.func.stack_module_state(models)
        base = copy.deepcopy(models[0]).to("meta")
        assert said(base, "TIE406") == [("TIE406", "error")]

    def test_a_layer_that_is_borrowed_is_silent(self) -> None:
        lender, model = nn.Linear(4, 6), Closure(bound=False)
        model.__dict__["borrowed"] = lender
        model.forward = lambda ids: (
            lender(model.wte(ids)) @ torch.ones(6, 8) + F.linear(model.wte(ids), model.wte.weight)
        )
        assert said(model, "TIE406") == []
