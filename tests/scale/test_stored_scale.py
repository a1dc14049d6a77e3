"""TIE701's fact from files: what a stored tied tensor's scale does, and whether its model is untrained."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.records.scale import InitScale
from tiecheck.records.words import Unknown
from tiecheck.scale.prediction import predicted_deviation
from tiecheck.scale.stored import HARMLESS, NO_NORM, stored_scale

WIDTH, VOCABULARY = 64, 512
NAMES = ("lm_head.weight", "wte.weight")
MODELS = Path(__file__).parents[2] / "fixtures" / "models"


def linear(rows: int, columns: int) -> torch.Tensor:
    return torch.nn.Linear(columns, rows).weight.detach().clone()


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """An untrained GPT-like whose shared matrix keeps the embedding's draw."""
    torch.manual_seed(seed)
    tensors = {"wte.weight": torch.randn(VOCABULARY, WIDTH), "wpe.weight": torch.randn(32, WIDTH)}
    for layer in range(3):
        tensors[f"h.{layer}.ln_1.weight"] = torch.ones(WIDTH)
        tensors[f"h.{layer}.ln_1.bias"] = torch.zeros(WIDTH)
        tensors[f"h.{layer}.attn.qkv.weight"] = linear(3 * WIDTH, WIDTH)
        tensors[f"h.{layer}.attn.qkv.bias"] = torch.zeros(3 * WIDTH)
        tensors[f"h.{layer}.mlp.up.weight"] = linear(4 * WIDTH, WIDTH)
        tensors[f"h.{layer}.mlp.down.weight"] = linear(WIDTH, 4 * WIDTH)
    return {**tensors, "ln_f.weight": torch.ones(WIDTH), "ln_f.bias": torch.zeros(WIDTH)}


def scale_of(
    tensors: dict[str, torch.Tensor], path: Path, *, name: str = "wte.weight", head_scale: float | None = 1.0
) -> InitScale | Unknown:
    save_file(tensors, path / "model.safetensors")
    checkpoint = read_checkpoint(str(path))
    assert checkpoint is not None
    return stored_scale(checkpoint, NAMES, name, head_scale)


def record(tensors: dict[str, torch.Tensor], path: Path, **options) -> InitScale:
    found = scale_of(tensors, path, **options)
    assert isinstance(found, InitScale), found
    return found


def reason(tensors: dict[str, torch.Tensor], path: Path, **options) -> str:
    found = scale_of(tensors, path, **options)
    assert isinstance(found, Unknown), found
    return found.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_an_embeddings_draw_is_predicted_to_blow_up(tmp_path, dtype):
    found = record({name: t.to(dtype) for name, t in state().items()}, tmp_path)
    assert found.untrained
    assert "4 normalisation layers" in found.evidence
    assert found.std == pytest.approx(1.0, rel=0.01)
    assert found.predicted == pytest.approx(8.0, rel=0.01)
    assert (found.width, found.vocabulary) == (WIDTH, VOCABULARY)
    assert (found.hidden_rms, found.measured, found.loss, found.repeats, found.reason) == (None,) * 5


def test_the_sampled_deviation_is_that_of_the_whole_tensor(tmp_path):
    tensors = state() | {"wte.weight": torch.randn(5000, WIDTH)}
    whole = float(tensors["wte.weight"].std())
    assert record(tensors, tmp_path).std == pytest.approx(whole, rel=0.01)


def test_a_linear_layers_draw_is_harmless(tmp_path):
    found = record(state() | {"wte.weight": linear(VOCABULARY, WIDTH)}, tmp_path)
    assert found.untrained
    assert found.predicted == pytest.approx(3**-0.5, rel=0.02)


def test_the_head_scale_counts(tmp_path):
    assert record(state(), tmp_path, head_scale=WIDTH**-0.5).predicted == pytest.approx(1.0, rel=0.02)
    found = record(state(), tmp_path, head_scale=None)
    assert found.untrained
    assert found.predicted is None
    assert "multiplies its logits" in found.reason


def normal_draws() -> dict[str, torch.Tensor]:
    tensors = state()
    for name in [n for n in tensors if ".attn." in n or ".mlp." in n]:
        if tensors[name].dim() == 2:
            tensors[name].normal_(std=0.02 / math.sqrt(6) if "down" in name else 0.02)
    return tensors


def truncated_draws() -> dict[str, torch.Tensor]:
    tensors = state()
    for name in [n for n in tensors if ".attn." in n or ".mlp." in n]:
        if tensors[name].dim() == 2:
            torch.nn.init.trunc_normal_(tensors[name], std=0.013, a=-0.026, b=0.026)
    return tensors


def xavier_draws() -> dict[str, torch.Tensor]:
    tensors = state()
    for name in [n for n in tensors if ".attn." in n or ".mlp." in n]:
        if tensors[name].dim() == 2:
            torch.nn.init.xavier_uniform_(tensors[name])
    return tensors


def zero_blocks() -> dict[str, torch.Tensor]:
    tensors = state()
    for layer in range(3):
        tensors[f"h.{layer}.mlp.down.weight"].zero_()
    return tensors


@pytest.mark.parametrize("make", [normal_draws, truncated_draws, xavier_draws, zero_blocks])
def test_other_default_draws_are_untrained_too(tmp_path, make):
    assert record(make(), tmp_path).untrained


def gain_moved(tensors):
    tensors["h.0.ln_1.weight"][3] += 1e-4


def late_gain_moved(tensors):
    tensors["ln_f.weight"][-1] = 1.01


def bias_moved(tensors):
    tensors["h.1.ln_1.bias"][0] = 1e-6


def weights_grown(tensors):
    tensors["h.0.attn.qkv.weight"].mul_(1.3)


def rows_grown(tensors):  # the distribution stays, the rows differ: what training does
    tensors["h.0.attn.qkv.weight"].mul_(torch.linspace(0.5, 1.5, 3 * WIDTH)[:, None])


def heavy_tails(tensors):
    tensors["h.0.attn.qkv.weight"] = torch.distributions.StudentT(4.0).sample((3 * WIDTH, WIDTH)) * 0.02


@pytest.mark.parametrize("train", [gain_moved, late_gain_moved, bias_moved, weights_grown, rows_grown, heavy_tails])
def test_any_sign_of_training_ends_it(tmp_path, train):
    tensors = state()
    train(tensors)
    found = record(tensors, tmp_path)
    assert not found.untrained
    assert found.predicted is None


def test_a_trained_model_costs_two_opens_and_a_few_kilobytes(tmp_path, monkeypatch):
    import os

    tensors = state()
    gain_moved(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(str(tmp_path))
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read.append(size) or pread(fd, size, at))
    found = stored_scale(checkpoint, NAMES, "wte.weight", 1.0)
    assert not found.untrained
    assert found.std is None
    assert sum(read) <= 8192


def test_without_normalisation_layers_a_large_scale_is_unknown(tmp_path):
    tensors = {name: t for name, t in state().items() if "ln_" not in name}
    assert reason(tensors, tmp_path) == NO_NORM
    tensors["wte.weight"].mul_(0.02)
    found = record(tensors, tmp_path)
    assert not found.untrained
    assert found.predicted < HARMLESS
    assert reason(tensors, tmp_path, head_scale=None) == NO_NORM


def test_norms_alone_are_no_evidence(tmp_path):
    tensors = {name: t for name, t in state().items() if "attn" not in name and "mlp" not in name}
    assert "no weight matrix that could tell" in reason(tensors, tmp_path)


def test_weights_that_add_one_are_unknown(tmp_path):
    tensors = {name: t.mul(0) if name.endswith(("ln_1.weight", "ln_f.weight")) else t for name, t in state().items()}
    assert "all zero" in reason(tensors, tmp_path)


def test_what_cannot_be_read_is_unknown(tmp_path):
    tensors = state()
    assert "not in a safetensors file" in reason(tensors, tmp_path, name="lm_head.weight")
    assert "no matrix" in reason(tensors, tmp_path, name="ln_f.weight")
    assert "int8" in reason(tensors | {"wte.weight": torch.ones(4, 4, dtype=torch.int8)}, tmp_path)
    tensors["wte.weight"][:] = math.nan
    assert "not finite" in reason(tensors, tmp_path)


def test_a_truncated_file_is_unknown(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:4096])
    found = stored_scale(checkpoint, NAMES, "wte.weight", 1.0)
    assert isinstance(found, Unknown)
    assert "ends within" in found.reason
    file.unlink()
    assert isinstance(stored_scale(checkpoint, NAMES, "wte.weight", 1.0), Unknown)


@pytest.mark.parametrize(
    ("case", "predicted"), [("gpt2-embedding-draw", 8.0), ("gpt2-linear-draw", 0.577), ("gpt2-trained", None)]
)
def test_the_fixtures_of_the_forum_thread(case, predicted):
    path = str(MODELS / case)
    checkpoint = read_checkpoint(path)
    found = stored_scale(checkpoint, NAMES, "model.tok_embedding.weight", 1.0)
    assert found.untrained == (predicted is not None)
    assert found.predicted == (predicted and pytest.approx(predicted, rel=0.02))


def test_the_formula():
    assert predicted_deviation(1.0, 768, 1.0, 1.0) == pytest.approx(27.71, abs=0.01)
    assert predicted_deviation(1.0, 512, 1.0, 512**-0.5) == pytest.approx(1.0)


def test_the_stored_half_imports_nothing_heavy():
    code = "import sys, tiecheck.scale.stored; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
