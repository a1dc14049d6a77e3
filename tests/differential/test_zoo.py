"""The zoo: real classes of transformers, built tiny, saved, changed and loaded again.

What `from_pretrained` really does with the files is the ground truth; tiecheck's word on the same files must agree
with it or be "unknown, because". `tests/benchmarks/bench_zoo.py` prints the table of a whole run.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from lanes import sampled
from zoo import animal, by_name, zoo
from zoo_truth import changed, untouched

from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.classes import load_config_class
from tiecheck.tables.generate.configs import silent_dict
from tiecheck.tables.generate.head_scale import tiny_config

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    "AlbertForMaskedLM",
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "BertModel",
    "BloomForCausalLM",
    "EncoderDecoderModel",
    "FSMTForConditionalGeneration",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LlavaForConditionalGeneration",
    "MambaForCausalLM",
    "MarianMTModel",
    "OPTForCausalLM",
    "PegasusForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "RobertaForMaskedLM",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "VisionEncoderDecoderModel",
    "WhisperForConditionalGeneration",
    "XLNetLMHeadModel",
    "Zamba2ForCausalLM",
]
"""One class or two of each family, and some that tie nothing."""


CHANGED = [
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
]
"""Classes whose files are changed in the normal lane."""


@pytest.mark.parametrize("name", sampled(SAMPLE))
def test_untouched_saves_are_judged_as_transformers_loads_them(tmp_path: Path, name: str) -> None:
    one = animal(by_name(name))
    for value in (None, False):
        assert list(untouched(one, one.model(value), tmp_path / str(value))) == []


@pytest.mark.parametrize("name", sampled(CHANGED))
def test_changed_files_are_judged_as_transformers_loads_them(tmp_path: Path, name: str) -> None:
    few = {("as saved", "false"), ("as saved", "gone"), ("source dropped", "as saved"), ("source dropped", "false")}
    few |= {("equal copy", "true"), ("equal copy", "false"), ("other copy", "true"), ("other copy", "gone")}
    few |= {("as saved", "text_config False"), ("as saved", "text_config True")}
    found = {words: wrong for words, wrong, _ in changed(animal(by_name(name)), tmp_path, lambda *e: e in few) if wrong}
    assert found == {}


COMPOSED = [
    ("LlavaForConditionalGeneration", "text_config", "gemma"),
    ("Blip2ForConditionalGeneration", "text_config", "llama"),
    ("VisionEncoderDecoderModel", "decoder", "opt"),
    ("EncoderDecoderModel", "decoder", "gpt2"),
]
"""Composite classes with another text model inside than by default: what fits, and what the table has no names for."""


@pytest.mark.parametrize(("name", "key", "model_type"), COMPOSED)
def test_composites_are_judged_by_what_they_hold_or_not_at_all(
    tmp_path: Path, name: str, key: str, model_type: str
) -> None:
    one = animal(by_name(name))
    config = load_config_class(model_type)()
    one.data[key] = tiny_config(silent_dict(config), config, 64, 4) | {"model_type": model_type}
    if key == "decoder":
        one.data[key] |= {"is_decoder": True, "add_cross_attention": True}
    assert list(untouched(one, one.model(), tmp_path / "untouched")) == []
    few = {("as saved", "gone"), ("as saved", f"{key} False"), ("other copy", "as saved"), ("other copy", "true")}
    found = {words: wrong for words, wrong, _ in changed(one, tmp_path / "changed", lambda *e: e in few) if wrong}
    assert found == {}


@pytest.mark.slow
def test_untouched_saves_of_every_class_that_ties(tmp_path: Path) -> None:
    wrong: dict[str, list[str]] = {}
    built = 0
    for candidate, one in zoo():
        for value in (None, True, False):
            try:
                model = one.model(value)
            except (AttributeError, ValueError):
                continue  # the class itself refuses the flag, or cannot draw its weights
            built += 1
            key = f"{candidate.class_name}-{candidate.model_type}-{value}"
            with tempfile.TemporaryDirectory(dir=tmp_path) as where:
                found = list(untouched(one, model, Path(where)))
            if found:
                wrong[key] = found
    assert wrong == {}
    assert built > 1000


@pytest.mark.slow
def test_changed_files_of_one_class_a_shape_of_ties(tmp_path: Path) -> None:
    wrong: dict[str, list[str]] = {}
    seen: set[str] = set()
    for candidate, one in zoo():
        shape = repr(load_architecture(candidate.class_name, candidate.model_type).ties)
        if shape in seen:
            continue
        seen.add(shape)
        with tempfile.TemporaryDirectory(dir=tmp_path) as where, contextlib.suppress(AttributeError):
            for words, found, _ in changed(one, Path(where), lambda *_: True):
                if found:
                    wrong[f"{candidate.class_name}: {words}"] = found
    assert wrong == {}
    assert len(seen) > 100


@pytest.mark.slow
def test_every_cell_of_one_class_a_shape_of_ties(tmp_path: Path) -> None:
    """What 5 and 4.57 make of every change of the files; `tests/benchmarks/bench_truth.py` has the whole table."""
    from truth.run import Older, classes, row_of

    wrong: dict[str, list[str]] = {}
    built = 0
    with Older() as older:
        for candidate, first in classes():
            if first:
                row = row_of(candidate, older, every_flag=True)
                built += row["not_built"] is None
                if row["wrong"]:
                    wrong[candidate.class_name] = row["wrong"]
    assert wrong == {}
    assert built > 150
