"""Patterns that backtrack forever are found out before they are run; those that classes declare are not refused."""

from __future__ import annotations

import time

import pytest
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tiecheck import patterns
from tiecheck.live.live_facts import collect_live
from tiecheck.patterns import may_explode, takes_forever

NAMES = ["a" * 40 + ".weight", "x" * 40]
T5GEMMA = r"decoder.layers\.(?:[^.]+\.)*per_expert_scale"  # transformers 5.23, among what its classes declare


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", r"a*a*a*a*a*b", r"(x+x+)+y", r"(?:x{1,99}){1,99}z"]
)
def test_a_pattern_that_backtracks_forever_is_stopped(monkeypatch, pattern: str) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    assert may_explode(pattern)
    if "a*a*" not in pattern:  # a power of the length only: forty letters are no time at all
        assert takes_forever(["lm_head.weight", pattern + "!"], lambda: NAMES) == pattern + "!"


@pytest.mark.parametrize(
    "pattern", [T5GEMMA, r"bbox_embed.(?![0])\d+", "lm_head.weight", r"^text_model\.(?!rotary_emb)"]
)
def test_what_classes_declare_is_not_refused(pattern: str) -> None:
    assert takes_forever([pattern], lambda: ["decoder.layers." + "a.b." * 20 + "weight", *NAMES]) is None


@pytest.mark.parametrize("pattern", ["(", "[a", "(" * 5000, "a{1,99999999999}"])
def test_what_is_no_pattern_is_left_to_re(pattern: str) -> None:
    assert not may_explode(pattern)


class Endless(PreTrainedModel):
    config_class = PretrainedConfig
    _tied_weights_keys = {r"(a+)+$b": "head.weight"}  # noqa: RUF012

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(2, 2)
        setattr(self, "a" * 40, nn.Linear(2, 2))


def test_a_class_that_declares_one_is_unknown_in_bounded_time(monkeypatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 1.0)
    begin = time.perf_counter()
    live = collect_live(Endless(PretrainedConfig(tie_word_embeddings=True)), origin="given")
    assert time.perf_counter() - begin < 30
    assert "cannot be matched against the names in time" in " ".join(live.reasons)
