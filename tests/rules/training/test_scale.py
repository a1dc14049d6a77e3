"""TIE701 against its failure as the real libraries produce it, and the traps beside it."""

from __future__ import annotations

import math

import cases_gpt2
import pytest
import transformers
from file_failures import t5
from rule_failures import codes

import tiecheck
from tiecheck.rules.training.scale import EmbeddingScaleOnTiedHead


class TestTraining:
    """TIE701: the GPT-2 thread, and the models whose large embeddings do no harm."""

    @pytest.mark.parametrize(
        ("sizes", "predicted"),
        [
            pytest.param(cases_gpt2.SMALL, 8.0, id="d64"),
            pytest.param(cases_gpt2.MIDDLE, 16.0, id="d256"),
            pytest.param({}, 27.7, id="the-thread", marks=pytest.mark.slow),
        ],
    )
    def test_embedding_draw_on_a_tied_head(self, sizes: dict[str, int], predicted: float) -> None:
        model = cases_gpt2.build("head_from_embedding", **sizes)
        (finding,) = tiecheck.check(model).findings
        assert (finding.code, finding.severity) == (EmbeddingScaleOnTiedHead.code, "error")
        width, vocabulary = model.config.d_model, model.config.vocab_size
        assert f"deviate by {predicted} as predicted (std * sqrt({width}))" in finding.message
        assert f"ln({vocabulary}) = {math.log(vocabulary):.2f}" in finding.message
        measured = float(finding.message.partition(" measured")[0].rpartition(" ")[2])
        assert measured == pytest.approx(predicted, rel=0.05)
        loss = float(finding.message.partition(" nats")[0].rpartition(" ")[2])
        assert loss > 4 * math.log(vocabulary)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: cases_gpt2.build("embedding_from_head", **cases_gpt2.SMALL),
            lambda: cases_gpt2.build("embedding_from_head", **cases_gpt2.MIDDLE),
            t5,
            lambda: transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2)
            ),
        ],
        ids=["linear-draw-d64", "linear-draw-d256", "t5", "transformers-gpt2"],
    )
    def test_other_untrained_models_are_silent(self, make) -> None:
        assert codes(make()) == []

    def test_trained_model_with_a_large_embedding_is_silent(self) -> None:
        model = cases_gpt2.build("head_from_embedding", **cases_gpt2.SMALL)
        cases_gpt2.train(model, 30)
        assert codes(model) == []
