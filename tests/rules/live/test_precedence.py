"""The one rule that speaks for a broken declared group."""

from __future__ import annotations

import pytest

from tiecheck.rules.cases import EMBEDDING, HEAD, declared_tie, live_head
from tiecheck.rules.live.mends import follows_weight, parts_text, speaking_rule, why_stale

BIASES = declared_tie("separate", parts=(("lm_head.bias",), ("decoder.bias",)))
WEIGHTS = declared_tie("parameter", parts=(("lm_head.weight", "model.embed_tokens.weight"),))


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        (declared_tie("parameter", parts=((HEAD, EMBEDDING),)), None),
        (declared_tie("copy"), "TIE301"),
        (declared_tie("copy", stored="separate"), None),
        (declared_tie("separate", devices=("meta", "cpu")), "TIE314"),
        (declared_tie("separate", parts=((HEAD, "a.weight"), (EMBEDDING,))), "TIE307"),
        (declared_tie("separate", shapes=((8, 4), (9, 4))), "TIE306"),
    ],
)
def test_the_more_precise_rule_speaks(claim, code: str | None) -> None:
    assert speaking_rule(claim, (claim,), ()) == code


def test_a_bias_follows_the_weight_beside_it() -> None:
    assert follows_weight(BIASES, (BIASES, WEIGHTS))
    assert not follows_weight(BIASES, (BIASES,))
    assert speaking_rule(BIASES, (BIASES, WEIGHTS), ()) == "TIE308"


def test_a_head_that_is_tied_elsewhere_is_stale() -> None:
    other = live_head(embedding=(EMBEDDING,), head=(HEAD, "model.old.weight"))
    assert why_stale(declared_tie("copy"), (other,)) == "the head is one tensor with model.old.weight"
    assert why_stale(declared_tie("copy"), ()) is None


def test_the_members_are_told_as_they_fall_apart() -> None:
    assert parts_text(declared_tie("copy")) == f"{HEAD}; {EMBEDDING}"
