"""Every class of transformers as it is: ties, kinds and aliases right, and nothing wrong said of a healthy model.

Each is built on meta at its full size. The normal lane has a sample; `tests/benchmarks/bench_live_zoo.py` writes the
whole table.
"""

from __future__ import annotations

from typing import Any

import pytest
from lanes import sampled
from subjects import VARIANTS, ClassCandidate, every
from verdicts import row_of

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    ("AlbertForMaskedLM", "albert"),
    ("BartForConditionalGeneration", "bart"),
    ("BertForMaskedLM", "bert"),
    ("BertModel", "bert"),
    ("BigBirdPegasusForCausalLM", "bigbird_pegasus"),
    ("CpmAntForCausalLM", "cpmant"),
    ("DFineForObjectDetection", "d_fine"),
    ("DiffusionGemmaForBlockDiffusion", "diffusion_gemma"),
    ("EncoderDecoderModel", "encoder-decoder"),
    ("FSMTForConditionalGeneration", "fsmt"),
    ("GPT2LMHeadModel", "gpt2"),
    ("Gemma3ForConditionalGeneration", "gemma3"),
    ("LlamaForCausalLM", "llama"),
    ("LlavaNextForConditionalGeneration", "llava_next"),
    ("LukeForMaskedLM", "luke"),
    ("MarianMTModel", "marian"),
    ("MllamaForConditionalGeneration", "mllama"),
    ("MusicgenForConditionalGeneration", "musicgen"),
    ("RagTokenForGeneration", "rag"),
    ("RemBertForMaskedLM", "rembert"),
    ("SeamlessM4TModel", "seamless_m4t"),
    ("T5ForConditionalGeneration", "t5"),
    ("T5GemmaForConditionalGeneration", "t5gemma"),
    ("WhisperForConditionalGeneration", "whisper"),
    ("Zamba2ForCausalLM", "zamba2"),
]
"""One class of each shape of ties, and those that a checker is likely to be wrong about."""


def loud(row: dict[str, Any]) -> list[str]:
    """Errors and warnings of a row."""
    return [f"{f['code']}: {f['message']}" for f in row["findings"] if f["severity"] != "info"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "model_type"), sampled(SAMPLE))
def test_a_class_as_it_is(name: str, model_type: str, variant: str) -> None:
    row = row_of(ClassCandidate(name, model_type, ""), variant)
    assert row["not_built"] is None
    assert row["wrong"] == []
    assert loud(row) == []


@pytest.mark.slow
def test_every_class_as_it_is() -> None:
    wrong: dict[str, list[str]] = {}
    built: set[tuple[str, str]] = set()
    for candidate in every():
        for variant in VARIANTS:
            row = row_of(candidate, variant)
            if row["not_built"]:
                break
            built.add((candidate.class_name, candidate.model_type))
            if row["wrong"] or loud(row):
                wrong[f"{candidate.class_name} ({candidate.model_type}), {variant}"] = [*row["wrong"], *loud(row)]
            if not (row["declares"] or row["groups"] or row["heads"] == "two of one shape"):
                break
    assert wrong == {}
    assert len(built) > 1500
