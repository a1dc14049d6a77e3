"""What an untrained model says, predicted: held against the models of the GPT-2 thread that are built and run."""

from __future__ import annotations

import math
import random

import cases_gpt2
import pytest
import torch

import tiecheck
from tiecheck.records.scale import InitScale
from tiecheck.scale.prediction import own_share, predict_untrained, predicted_deviation


def both(order: str, **sizes: int) -> InitScale:
    torch.manual_seed(0)
    model = cases_gpt2.build(order, **sizes)
    (scale,) = tiecheck.inspect(model, measure=True).targets[0].scale
    return scale


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(cases_gpt2.SMALL, id="d64"),
        pytest.param(cases_gpt2.MIDDLE, id="d256"),
        pytest.param({}, id="the-thread", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("order", ["head_from_embedding", "embedding_from_head"])
def test_predicted_measured_and_sampled_agree_in_both_orders(order: str, sizes: dict[str, int]) -> None:
    found = both(order, **sizes)
    blown = order == "head_from_embedding"
    assert found.measured == pytest.approx(found.predicted, rel=0.02)
    assert found.loss == pytest.approx(found.predicted_loss, rel=0.05)
    assert found.sampled == pytest.approx(found.predicted_sampled, abs=0.05)
    assert found.margin == pytest.approx(found.predicted_margin, rel=0.1, abs=0.5)
    assert (found.predicted >= 4, found.predicted_sampled > 0.9) == (blown, blown)
    assert found.drawn is not None
    assert ("nn.Embedding" in found.drawn) == blown
    assert ("nn.Linear" in found.drawn) != blown


def test_random_draws_say_what_is_predicted_of_them() -> None:
    rng = random.Random(7)
    for _ in range(40):
        width, vocabulary = rng.choice((16, 64, 256)), rng.choice((50, 512, 4000))
        deviation, share = math.exp(rng.uniform(-3, 3)), rng.uniform(0, 0.9)
        generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
        others = torch.randn(64, vocabulary - 1, generator=generator) * deviation
        own = torch.full((64, 1), share * deviation * math.sqrt(width))
        logits = torch.cat([own, others], dim=1)
        loss = float((logits.logsumexp(1) - logits.mean(1)).mean())
        found = predict_untrained(deviation, width, vocabulary, share)
        assert found.loss == pytest.approx(loss, rel=0.06, abs=0.3)
        assert found.margin == pytest.approx(float((own - others.amax(1, keepdim=True)).mean()), abs=0.6 * deviation)


def test_what_follows_from_the_figures() -> None:
    assert predicted_deviation(0.02, 768, 1.0, 1.0) == pytest.approx(0.554, abs=0.001)
    assert predict_untrained(0.0, 64, 1000, 0.5).loss == pytest.approx(math.log(1000), abs=0.01)
    assert own_share(0.0, 1.0, 0.0, 12) == 0
    shares = [own_share(std, 1.0, 1.0, 12) for std in (0.02, 0.1, 1.0, 10.0)]
    assert shares == sorted(shares)
    assert own_share(0.02, math.sqrt(768), 0.0, 12) == pytest.approx(own_share(0.02 * math.sqrt(768), 1.0, 0.0, 12))
