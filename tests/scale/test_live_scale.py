"""TIE701's fact from live modules: predicted against measured, and the module left as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown
from tiecheck.scale.live import live_scale
from tiecheck.scale.stored import NO_NORM

NAMES = ("embedding.weight", "head.weight")


class Block(nn.Module):
    def __init__(self, width, *, lazy):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        made = (lambda _, out: nn.LazyLinear(out)) if lazy else nn.Linear
        self.qkv, self.out = made(width, 3 * width), made(width, width)
        self.up, self.down = made(width, 4 * width), made(4 * width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (p.view(b, t, d // 32, 32).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, d)))
        return x + self.dropout(self.down(nn.functional.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    """The forum thread's GPT-2; `tie` is the order, or how the head reads the embedding."""

    def __init__(self, width=64, vocabulary=512, layers=2, tie="head from embedding", *, lazy=False, length=128):
        super().__init__()
        self.tie = tie
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, lazy=lazy) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        if tie in ("head from embedding", "embedding from head"):
            self.head = nn.Linear(width, vocabulary, bias=False)
        if tie == "head from embedding":
            self.head.weight = self.embedding.weight
        elif tie == "embedding from head":
            self.embedding.weight = self.head.weight

    def hidden(self, ids):
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, ids):
        x, weight = self.hidden(ids), self.embedding.weight
        if self.tie == "linear":
            return nn.functional.linear(x, weight)
        if self.tie == "matmul":
            return x @ weight.t()
        if self.tie == "einsum":
            return torch.einsum("btd,vd->btv", x, weight)
        return self.head(x)


class Changed(GPT):
    """A GPT whose way from the last norm to the logits is another."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self.change = change
        self.temperature = nn.Parameter(torch.tensor(0.5))

    def forward(self, ids):
        return self.change(self, self.hidden(ids))


def measured(module, names=NAMES) -> InitScale:
    torch.manual_seed(1)
    found = live_scale(module, names)
    assert isinstance(found, InitScale), found
    assert found.untrained, found.evidence
    return found


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("width", "deviation", "loss"), [(64, 8.0, 43.0), (256, 16.1, 172.0)])
def test_prediction_and_measurement_agree(width, deviation, loss):
    found = measured(GPT(width, 8000))
    assert found.predicted == pytest.approx(deviation, rel=0.02)
    assert found.measured == pytest.approx(found.predicted, rel=0.03)
    assert found.loss == pytest.approx(loss, rel=0.07)
    assert found.repeats > 0.97
    assert found.head_scale == 1.0
    assert found.hidden_rms == pytest.approx(1.0, abs=1e-3)
    assert found.reason is None


@pytest.mark.slow
def test_the_forum_threads_full_size():
    found = measured(GPT(768, 50257, 12))
    assert found.predicted == pytest.approx(27.7, rel=0.005)
    assert found.measured == pytest.approx(27.8, rel=0.02)
    assert found.loss == pytest.approx(475, rel=0.05)
    assert found.loss > 40 * math.log(50257)


def test_the_other_order_is_harmless_without_a_forward_pass():
    found = measured(GPT(tie="embedding from head"))
    assert found.predicted == pytest.approx(3**-0.5, rel=0.02)
    assert found.measured is None
    assert "no forward pass" in found.reason


@pytest.mark.parametrize("tie", ["linear", "matmul", "einsum"])
def test_a_functional_head_is_seen(tie):
    found = measured(GPT(tie=tie), ("embedding.weight",))
    assert found.predicted == pytest.approx(8.0, rel=0.02)
    assert found.measured == pytest.approx(8.0, rel=0.05)


def test_a_lazy_model_is_measured_in_a_copy():
    model = GPT(lazy=True)
    found = measured(model)
    assert "lazy" in found.evidence
    assert found.measured == pytest.approx(8.0, rel=0.05)
    assert nn.parameter.is_lazy(model.blocks[0].qkv.weight)
    model(torch.zeros(1, 4, dtype=torch.long))
    assert "default draw" in measured(model).evidence


def halved(self, x):
    return self.head(x) / 2


def scaled_input(self, x):
    return self.head(x * 64**-0.5)


def scaled_weight(self, x):
    return x @ (self.embedding.weight * 0.25).t()


def learned(self, x):
    return self.head(x) * self.temperature


def in_place(self, x):
    logits = self.head(x)
    logits *= 0.5
    return {"hidden": x, "logits": logits.float()}


def last_only(self, x):
    return self.head(x[:, [-1], :]), None


def flat(self, x):
    return (self.head(x).view(-1, 512),)


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        (halved, 0.5),
        (scaled_input, 0.125),
        (scaled_weight, 0.25),
        (learned, 0.5),
        (in_place, 0.5),
        (last_only, 1),
        (flat, 1),
    ],
)
def test_what_scales_the_logits_is_seen(change, scale):
    found = measured(Changed(change))
    assert found.head_scale == pytest.approx(scale)
    assert found.hidden_rms == pytest.approx(1.0, abs=1e-3)
    assert found.predicted == pytest.approx(8.0 * scale, rel=0.02)
    assert found.measured == pytest.approx(found.predicted, rel=0.1)


def test_an_input_without_a_norm_is_measured():
    found = measured(Changed(lambda self, x: self.head(x * torch.full_like(x, 3.0))))
    assert found.hidden_rms == pytest.approx(3.0, rel=0.01)
    assert found.head_scale == 1.0
    assert found.measured == pytest.approx(found.predicted, rel=0.05)


def test_a_soft_cap_leaves_the_prediction_open():
    found = measured(Changed(lambda self, x: 10 * torch.tanh(self.head(x) / 10)))
    assert found.predicted is None
    assert "`tanh`" in found.reason
    assert found.measured < 8.0


class Noisy(GPT):
    """A model whose forward writes to buffers, draws numbers and cares for its mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("kept", torch.ones(3))

    def forward(self, ids):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        self.kept = torch.zeros(5)
        torch.rand(7)
        return super().forward(ids)


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_left_as_it_was(fails):
    model = Noisy().train()
    model.blocks[1].eval()
    if fails:
        model.norm.forward = lambda _: 1 / 0
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    objects = [id(p) for p in model.parameters()]
    state = torch.get_rng_state()
    found = live_scale(model, NAMES)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.measured is None) == fails
    assert (found.reason is not None) == fails
    assert [m.training for m in model.modules()] == modes
    assert [id(p) for p in model.parameters()] == objects
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert model.kept.shape == (3,)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_trained_model_is_told_by_its_norms_without_a_forward_pass():
    model = GPT()
    model.forward = lambda _: pytest.fail("ran")
    model.hidden(torch.zeros(1, 4, dtype=torch.long)).square().sum().backward()
    with torch.no_grad():
        for parameter in filter(lambda p: p.grad is not None, model.parameters()):
            parameter.sub_(parameter.grad, alpha=1e-4)
    found = live_scale(model, NAMES)
    assert not found.untrained
    assert found.predicted is None
    assert found.std == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_measured_too(dtype):
    found = measured(GPT().to(dtype))
    assert found.predicted == pytest.approx(8.0, rel=0.02)
    assert found.measured == pytest.approx(8.0, rel=0.05)


def test_a_trained_model_with_unmoved_norms_is_told_by_its_weights():
    model = GPT()
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.mul_(torch.linspace(0.5, 1.5, 192)[:, None])
    found = live_scale(model, NAMES)
    assert not found.untrained
    assert "distribution of a fresh draw" in found.evidence


def test_a_model_that_fails_is_a_reason():
    found = measured(Changed(lambda self, x: 1 / 0))
    assert found.predicted is None
    assert "ZeroDivisionError" in found.reason
    found = measured(Changed(lambda self, x: x.mean()))
    assert "no logits over 512 tokens" in found.reason
    found = measured(Changed(lambda self, x: x @ torch.ones(64, 512)))
    assert "no product with the tied tensor" in found.reason


def test_inputs_that_cannot_be_made_are_a_reason():
    class Picture(GPT):
        def forward(self, ids, pixels):
            return super().forward(ids + pixels)

    assert "needs pixels" in measured(Picture()).reason


def test_shorter_inputs_are_tried():
    class Short(GPT):
        def __init__(self):
            super().__init__()
            self.positions = None
            self.place = nn.Parameter(torch.randn(16, 64))

        def hidden(self, ids):
            return self.norm(self.embedding(ids) + self.place[torch.arange(ids.shape[1])])

    assert measured(Short()).measured == pytest.approx(8.0, rel=0.15)
    assert measured(GPT(length=9)).measured == pytest.approx(8.0, rel=0.15)


def test_what_cannot_be_judged_is_unknown():
    bare = nn.ModuleDict({"embedding": nn.Embedding(512, 64), "head": nn.Linear(64, 512, bias=False)})
    assert "not one parameter" in live_scale(bare, NAMES).reason
    bare["head"].weight = bare["embedding"].weight
    assert live_scale(bare, NAMES) == Unknown(NO_NORM)
    assert "no parameter" in live_scale(bare, ("nowhere.weight",)).reason
    assert "no matrix" in live_scale(GPT(), ("norm.weight",)).reason
    with torch.no_grad():
        bare["head"].weight.mul_(0.02)
    found = live_scale(bare, NAMES)
    assert not found.untrained
    assert found.predicted == pytest.approx(0.16, rel=0.05)


class AddsOne(nn.Module):
    """Gemma's norm: what is stored is added to one."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return nn.functional.rms_norm(x, x.shape[-1:]) * (1 + self.weight)


def test_a_norm_that_adds_one_is_told_by_what_it_does():
    model = GPT()
    model.norm = type("GemmaRMSNorm", (AddsOne,), {})(64)
    assert measured(model).predicted == pytest.approx(8.0, rel=0.02)
    model.norm = type("ZeroNorm", (AddsOne,), {"forward": lambda self, x: x * self.weight})(64)
    assert "all zero" in live_scale(model, NAMES).reason


def test_a_module_on_meta_shows_its_heads_scale():
    def on_meta(make):
        with torch.device("meta"):
            return make()

    found = live_scale(on_meta(GPT), NAMES, std=1.0)
    assert (found.predicted, found.head_scale, found.hidden_rms) == (8.0, 1.0, 1.0)
    assert not found.untrained
    assert live_scale(on_meta(lambda: Changed(halved)), NAMES, std=1.0).predicted == 4.0
    assert live_scale(on_meta(lambda: Changed(scaled_input)), NAMES, std=1.0).predicted == 1.0
    assert "`mul`" in live_scale(on_meta(lambda: Changed(learned)), NAMES, std=1.0).reason
    unnormed = on_meta(lambda: Changed(lambda self, x: self.head(x + x)))
    assert "normalisation layer" in live_scale(unnormed, NAMES, std=1.0).reason
    assert "on meta" in live_scale(on_meta(GPT), NAMES).reason
    mixed = GPT()
    mixed.norm = mixed.norm.to("meta")
    assert live_scale(mixed, NAMES) == Unknown("some weights are on meta")
