"""Every class of transformers, full size on meta, planned by both installed planners as we run them and as they are."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest
from lanes import sampled
from planner_asks import asks_of
from planner_runs import agree, plans_of, total_bytes
from subjects import ClassCandidate, every, make

from tiecheck.peers.views.registry import ask_tools, would_warn

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    ("AlbertForMaskedLM", "albert"),
    ("BartForConditionalGeneration", "bart"),
    ("BertForPreTraining", "bert"),
    ("BigBirdPegasusForCausalLM", "bigbird_pegasus"),
    ("CpmAntForCausalLM", "cpmant"),
    ("EncoderDecoderModel", "encoder-decoder"),
    ("FSMTForConditionalGeneration", "fsmt"),
    ("GPT2LMHeadModel", "gpt2"),
    ("Gemma3ForConditionalGeneration", "gemma3"),
    ("LayoutLMv3Model", "layoutlmv3"),
    ("LlamaForCausalLM", "llama"),
    ("LukeForMaskedLM", "luke"),
    ("MarianMTModel", "marian"),
    ("MllamaForConditionalGeneration", "mllama"),
    ("RagTokenForGeneration", "rag"),
    ("T5GemmaForConditionalGeneration", "t5gemma"),
    ("Zamba2ForCausalLM", "zamba2"),
]
"""Each shape of ties, and classes without any."""

OTHERS = [
    ("BartModel", "bart"),
    ("BertForMaskedLM", "bert"),
    ("BertModel", "bert"),
    ("BlenderbotForConditionalGeneration", "blenderbot"),
    ("BloomForCausalLM", "bloom"),
    ("CLIPModel", "clip"),
    ("DFineForObjectDetection", "d_fine"),
    ("DistilBertForMaskedLM", "distilbert"),
    ("ElectraForMaskedLM", "electra"),
    ("FalconForCausalLM", "falcon"),
    ("Gemma2ForCausalLM", "gemma2"),
    ("GroundingDinoForObjectDetection", "grounding-dino"),
    ("LlavaNextForConditionalGeneration", "llava_next"),
    ("MBartForConditionalGeneration", "mbart"),
    ("MambaForCausalLM", "mamba"),
    ("MusicgenForConditionalGeneration", "musicgen"),
    ("OPTForCausalLM", "opt"),
    ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
    ("RemBertForMaskedLM", "rembert"),
    ("RobertaForMaskedLM", "roberta"),
    ("SeamlessM4TModel", "seamless_m4t"),
    ("SpeechT5ForTextToSpeech", "speecht5"),
    ("T5ForConditionalGeneration", "t5"),
    ("WhisperForConditionalGeneration", "whisper"),
    ("XLNetLMHeadModel", "xlnet"),
]
"""Further classes of the same shapes."""


def compared(candidate: ClassCandidate, model: Any) -> Counter[str]:
    """Hold our runs against both planners; what came out, counted.

    Raises:
        AssertionError: They differ in map, crash or warning.
    """
    warns = "1.7-" in would_warn(ask_tools(model))
    came: Counter[str] = Counter()
    for ask in asks_of(total_bytes(model))[:5]:
        for plan in plans_of(model, ask):
            agree(plan, model, ask)
            if plan.tool == "accelerate":
                warned = any(text.startswith("The model weights are not tied.") for text in plan.logged)
                assert warned == warns, (candidate, ask)
                came["warned"] += warned
            came[f"{plan.tool}: {'a map' if plan.crash is None else plan.crash.cause}"] += 1
            came["counted twice"] += bool(plan.doubles)
            came["moved"] += bool(plan.moved)
    return came


@pytest.mark.parametrize(
    ("name", "model_type"), [*sampled(SAMPLE), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]
)
def test_a_class_is_planned_alike(name: str, model_type: str) -> None:
    candidate = ClassCandidate(name, model_type, "")
    came = compared(candidate, make(candidate, "default"))
    assert sum(count for what, count in came.items() if ":" in what) == 10


@pytest.mark.slow
def test_every_class_is_planned_alike() -> None:
    came: Counter[str] = Counter()
    wrong = []
    for candidate in every():
        try:
            model = make(candidate, "default")
        except Exception:  # noqa: BLE001  # as elsewhere in the zoo: what a class raises, and packages that are not here
            came["not built"] += 1
            continue
        came["built"] += 1
        try:
            came += compared(candidate, model)
        except AssertionError as error:
            wrong.append(f"{candidate}: {error}")
    if os.environ.get("TIECHECK_SHOW"):
        print(json.dumps(came))
    assert wrong == []
    assert came["built"] > 1000
