"""The one rule that speaks for a broken declared group."""

from __future__ import annotations

import pytest

from tiecheck.rules.cases import EMBEDDING, HEAD, declared, head, live
from tiecheck.rules.live.precedence import follows_weight, parts, retie, speaker, stale

BIASES = declared("separate", parts=(("lm_head.bias",), ("decoder.bias",)))
WEIGHTS = declared("parameter", parts=(("lm_head.weight", "model.embed_tokens.weight"),))


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        (declared("parameter", parts=((HEAD, EMBEDDING),)), None),
        (declared("copy"), "TIE301"),
        (declared("copy", stored="separate"), None),
        (declared("separate", devices=("meta", "cpu")), "TIE314"),
        (declared("separate", parts=((HEAD, "a.weight"), (EMBEDDING,))), "TIE307"),
        (declared("separate", shapes=((8, 4), (9, 4))), "TIE306"),
    ],
)
def test_the_more_precise_rule_speaks(claim, code: str | None) -> None:
    assert speaker(claim, (claim,), ()) == code


def test_a_bias_follows_the_weight_beside_it() -> None:
    assert follows_weight(BIASES, (BIASES, WEIGHTS))
    assert not follows_weight(BIASES, (BIASES,))
    assert speaker(BIASES, (BIASES, WEIGHTS), ()) == "TIE308"


def test_a_head_that_is_tied_elsewhere_is_stale() -> None:
    other = head(embedding=(EMBEDDING,), head=(HEAD, "model.old.weight"))
    assert stale(declared("copy"), (other,)) == "the head is one tensor with model.old.weight"
    assert stale(declared("copy"), ()) is None


def test_what_ties_it_again_can_be_called() -> None:
    assert retie(declared("copy"), live()) == f"model.{HEAD} = model.{EMBEDDING}"
    by = ("config.tie_word_embeddings",)
    assert retie(declared("copy", by=by), live(wrappers=("DataParallel",))) == "model.module.tie_weights()"
    assert parts(declared("copy")) == f"{HEAD}; {EMBEDDING}"
