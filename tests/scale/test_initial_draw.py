"""Matrices that look like a fresh draw, by the distributions that initialisers give, and trained ones."""

from __future__ import annotations

import random

import pytest

from tiecheck.scale.initial_draw import (
    NO_MATRIX,
    Sample,
    evenly_spread,
    is_norm_gain,
    is_norm_offset,
    is_plain_matrix,
    no_draw,
    run_starts,
    sample_deviation,
)

DRAW = random.Random(0)


def sample(name: str, draw, shape: tuple[int, int] = (256, 256)) -> Sample:
    return Sample(name, shape, [[draw() for _ in range(256)] for _ in range(16)])


@pytest.mark.parametrize(
    "draw",
    [lambda: DRAW.gauss(0, 0.02), lambda: DRAW.uniform(-1 / 16, 1 / 16)],
    ids=["a usual constant", "nn.Linear"],
)
def test_default_draws_are_known(draw) -> None:
    assert no_draw([sample("a.weight", draw), sample("b.weight", draw)]) is None


def test_training_leaves_another_deviation_or_another_distribution() -> None:
    odd = no_draw([sample("a.weight", lambda: DRAW.gauss(0, 0.0123))])
    assert odd is not None
    assert "is none that initialisers give" in odd
    peaked = no_draw([sample("a.weight", lambda: DRAW.gauss(0, 0.02) ** 3)])
    assert peaked is not None
    assert "does not have the distribution of a fresh draw" in peaked


def test_constant_matrices_speak_neither_for_nor_against() -> None:
    assert no_draw([sample("a.weight", lambda: 0.0)]) == NO_MATRIX


def test_runs_are_spread_over_a_tensor() -> None:
    assert run_starts(100, 4, 10) == ([0, 30, 60, 90], 10)
    assert run_starts(7, 4, 10) == ([0], 7)
    assert evenly_spread([str(i) for i in range(10)], 4) == ["0", "3", "6", "9"]
    assert evenly_spread(["a", "b"], 4) == ["a", "b"]
    assert sample_deviation([[1.0, -1.0], [1.0, -1.0]]) == 1


def test_names_tell_what_a_parameter_is() -> None:
    assert is_norm_gain("model.norm.weight")
    assert is_norm_offset("ln_f.bias")
    assert is_plain_matrix("model.layers.0.mlp.up_proj.weight")
    assert not is_plain_matrix("model.embed_tokens.weight")
    assert not is_plain_matrix("model.norm.weight")
