"""Steps on the text of a file: what they name changes, the rest stays to the byte; a place that it lacks is told."""

from __future__ import annotations

import random

import pytest

from tiecheck.errors import TargetError
from tiecheck.fix.source_text import edited_text
from tiecheck.records.edits import source_step

CLASS = 'class Net({base}):{end}    _tied_weights_keys = ["head.weight"]  # a list{end}{end}    x = {number}{end}'
WANTED = '_tied_weights_keys = {"head.weight": "emb.weight"}'


@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_named_stays_to_the_byte(seed: int) -> None:
    drawn = random.Random(seed)
    end = drawn.choice(["\n", "\r\n"])
    text = CLASS.format(base=drawn.choice(["nn.Module", "PreTrainedModel"]), end=end, number=drawn.randrange(99))
    step = source_step("Net", WANTED, '_tied_weights_keys = ["head.weight"]', line=2)
    after, missed = edited_text(text, [step], "net.py")
    assert missed == ()
    assert after == text.replace('_tied_weights_keys = ["head.weight"]', WANTED)


def test_a_place_that_is_not_there_is_told() -> None:
    step = source_step("Net", WANTED, "_tied_weights_keys = None", line=9)
    text = CLASS.format(base="nn.Module", end="\n", number=1)
    assert edited_text(text, [step], "net.py") == (text, (step,))


def test_a_text_that_does_not_parse_is_refused() -> None:
    with pytest.raises(TargetError, match=r"net\.py cannot be parsed"):
        edited_text("class Net(:\n", [source_step("Net", WANTED)], "net.py")
