"""Every fix that is offered for drawn directories is carried out and loaded; for what loads right none is offered."""

from __future__ import annotations

from collections import Counter

import pytest
from harness.collect import drawn
from harness.mending import collect_mends, mends_page
from harness.saves import Save, animal_of, pool, saved, variants
from older import older_python

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    ("BartForConditionalGeneration", "bart"),
    ("BertForMaskedLM", "bert"),
    ("GemmaForCausalLM", "gemma"),
    ("LlamaForCausalLM", "llama"),
    ("MarianMTModel", "marian"),
    ("MT5ForConditionalGeneration", "mt5"),
    ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
]
WRONG = {"worse", "for what is right"}


def saves() -> list[Save]:
    """The sample, each class under two configs."""
    import random

    return [
        saved(name, model_type, variant)
        for name, model_type in SAMPLE
        for variant in variants(animal_of(name, model_type, ""), random.Random(1), 2)
    ]


def test_fixes_of_a_sample_are_right_in_transformers_5() -> None:
    found = collect_mends(drawn(saves(), 120, 21), None)
    counts = Counter(one.kind for one in found)
    assert not WRONG & counts.keys(), mends_page(found)
    assert counts["good"] > 20
    assert counts["good"] > 0.85 * len(found), mends_page(found)


@pytest.mark.slow
def test_fixes_of_drawn_classes_are_right_in_both_lines() -> None:
    found = collect_mends(drawn(list(pool(6, 40, older=True)), 500, 6), older_python())
    counts = Counter(one.kind for one in found)
    assert not WRONG & counts.keys(), mends_page(found)
    assert counts["good"] > 0.8 * len(found), mends_page(found)
