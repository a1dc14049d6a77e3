"""Every fix that is offered for drawn directories is carried out and loaded; for what loads right none is offered."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from harness.cases import Case, untouched
from harness.collect import drawn
from harness.configs import SetKey
from harness.mending import collect_mends, draft_of, mends_page
from harness.oracle import Oracle
from harness.saves import Save, animal_of, pool, saved, variants
from older import older_python

from tiecheck.config.options import Config
from tiecheck.engine.run import check_target
from tiecheck.fix.run import FixOptions, fix_target
from tiecheck.records.edits import file_edits

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
WRONG = {"worse", "for what is right", "loss stays", "raises as before"}


def _told(counts: Counter[str]) -> int:
    """Fixes after which the load is right, or the fault that stays is told."""
    return sum(count for kind, count in counts.items() if kind == "good" or kind.endswith(", said"))


def saves() -> list[Save]:
    """The sample, each class under two configs."""
    import random

    return [
        saved(name, model_type, variant)
        for name, model_type in SAMPLE
        for variant in variants(animal_of(name, model_type, ""), random.Random(1), 2)
    ]


MORE = [
    ("AlbertForMaskedLM", "albert"),
    ("FSMTForConditionalGeneration", "fsmt"),
    ("GPT2LMHeadModel", "gpt2"),
    ("Gemma3ForConditionalGeneration", "gemma3"),
    ("LlavaNextForConditionalGeneration", "llava_next"),
    ("T5ForConditionalGeneration", "t5"),
    ("T5GemmaForConditionalGeneration", "t5gemma"),
    ("WhisperForConditionalGeneration", "whisper"),
    ("Zamba2ForCausalLM", "zamba2"),
]
"""Classes of other shapes of ties."""


def offered(save: Save, where: Path) -> list[str]:
    """Fixes that are offered for a save as it is, notes included."""
    shutil.rmtree(where, ignore_errors=True)
    untouched(save).write(where)
    findings = check_target(str(where), Config()).findings
    assert fix_target(str(where), Config(), FixOptions("tied", unsafe=True, rehearse=False)).chosen == ()
    return [f"{save.class_name} {save.variant} {f.code}: {e.choice}" for f in findings for e in file_edits(f.edits)]


def test_no_fix_is_offered_for_what_was_saved(tmp_path: Path) -> None:
    """Of a sample, and of some classes that are drawn."""
    some = list(pool(7, 5))
    assert len({save.class_name for save in some}) == 5, "some are drawn"
    for save in some:
        shutil.rmtree(tmp_path / "drawn", ignore_errors=True)
        untouched(save).write(tmp_path / "drawn")
        config, options = Config(judge_for=("transformers",)), FixOptions("tied", unsafe=True, rehearse=False)
        assert fix_target(str(tmp_path / "drawn"), config, options).chosen == (), save
    every = [saved(*pair, ()) for pair in (*SAMPLE, *MORE)]
    assert [word for save in every for word in offered(save, tmp_path / "model")] == []


def test_a_load_that_is_right_may_start_wrong_and_a_class_that_draws_itself_so_does_not() -> None:
    """By its own config Funnel draws logits that deviate by 8; beside a config that says 0.02 that is an error."""
    funnel = Case("FunnelForMaskedLM", "funnel")
    small = funnel._replace(mutations=(SetKey("initializer_std", 0.02),))
    assert collect_mends([funnel, small], None) == []
    with mock.patch("harness.mending.BLOWN", 100.0):
        assert [(one.case, one.codes) for one in collect_mends([funnel, small], None)] == [(small, ("TIE701",))]


@pytest.mark.parametrize(
    ("top", "text", "choice"), [(True, False, None), (False, True, "tied"), (False, True, "untied")]
)
def test_flags_that_disagree_are_fixed_for_every_loader(
    top: bool, text: bool, choice: str | None, tmp_path: Path
) -> None:
    """Of Qwen3.5-MoE transformers reads the flag above and vLLM (`hf_text_config`) the one below."""
    case = Case("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", (("tie_word_embeddings", top),))
    case = case._replace(mutations=(SetKey("text_config.tie_word_embeddings", text),))
    draft = case.write(tmp_path / "model")
    (broken,) = check_target(str(tmp_path / "model"), Config()).findings
    assert (broken.code, broken.severity) == ("TIE103", "error")
    assert all(title.startswith("vllm") for title in broken.hurts or ())
    options = FixOptions(choice, unsafe=choice == "tied", to=str(tmp_path / "fixed"), rehearse=False)
    assert fix_target(str(tmp_path / "model"), Config(), options).written
    report = check_target(str(tmp_path / "fixed"), Config())
    ends = {loader.outcome for loader in report.loaders if loader.outcome != "unknown"}
    assert (report.findings, ends) == ((), {"kept-apart" if choice == "untied" else "tied"})
    fixed = draft_of(tmp_path / "fixed", draft)
    (line,) = Oracle().ask(tmp_path / "fixed", fixed, real=True)
    assert line.right()
    assert {line.end(names).word for names in line.groups()} == {"kept-apart" if choice == "untied" else "tied"}


@pytest.mark.slow
def test_no_fix_is_offered_for_any_save_of_drawn_classes(tmp_path: Path) -> None:
    every = list(pool(5, 150))
    assert len({save.class_name for save in every}) == 150
    assert [word for save in every for word in offered(save, tmp_path / "model")] == []


def test_fixes_of_a_sample_are_right_in_transformers_5() -> None:
    found = collect_mends(drawn(saves(), 160, 21), None)
    counts = Counter(one.kind for one in found)
    assert not WRONG & counts.keys(), mends_page(found)
    assert counts["good"] > 20
    assert _told(counts) > 0.85 * len(found), mends_page(found)


@pytest.mark.slow
def test_fixes_of_drawn_classes_are_right_in_both_lines() -> None:
    found = collect_mends(drawn(list(pool(6, 40, older=True)), 500, 6), older_python())
    counts = Counter(one.kind for one in found)
    assert not WRONG & counts.keys(), mends_page(found)
    assert _told(counts) > 0.8 * len(found), mends_page(found)
