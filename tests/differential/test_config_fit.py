"""Any field of any config, changed by itself: what is said of the directory is what transformers 5 makes of it.

Classes, fields and values are drawn; the truth is a rehearsed load, and a real one for a share.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from harness.cases import Case, untouched
from harness.collect import Bench
from harness.configs import SIZES, Classes, Flatten, SetKey, siblings, walk
from harness.files import Layout
from harness.members import Unprefixed
from harness.oracle import Oracle
from harness.saves import Save, pool, saved
from lanes import sampled

import tiecheck

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

SAMPLE = [
    ("BertForMaskedLM", "bert"),
    ("GPT2LMHeadModel", "gpt2"),
    ("Gemma3ForConditionalGeneration", "gemma3"),
    ("LlamaForCausalLM", "llama"),
    ("LlavaForConditionalGeneration", "llava"),
    ("MarianMTModel", "marian"),
    ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
    ("T5ForConditionalGeneration", "t5"),
]
"""Plain, nested and folded configs."""

SAID_ELSEWHERE = {"architectures", "model_type", "transformers_version", "dtype"}


def changes(save: Save, rng: random.Random, count: int) -> list[Any]:
    """Draw changes of single fields: sizes off by one, truths turned, null and text for a number, sections gone."""
    drawn: list[Any] = []
    for path, value in walk(save.config):
        last = path.rpartition(".")[2]
        if last in SAID_ELSEWHERE or last.endswith(("_id", "_ids")) or "layers" in last:
            continue
        if isinstance(value, bool):
            drawn.append(SetKey(path, not value))
        elif isinstance(value, int):
            drawn += [SetKey(path, other) for other in (value + 1, value * 2, None, "text")]
        elif isinstance(value, dict) and "model_type" in value:
            drawn += [SetKey(path, other) for other in (..., None, {})]
            drawn += [SetKey(f"{path}.model_type", None), Flatten(path)]
    return rng.sample(drawn, min(count, len(drawn)))


@pytest.mark.parametrize(("name", "model_type"), sampled(SAMPLE))
def test_a_changed_field_is_judged_as_transformers_5_loads_it(name: str, model_type: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    save = saved(name, model_type)
    bench = Bench(Oracle(), tmp_path / "model", rng, share=0.05)
    wrong = {}
    for change in changes(save, rng, 24):
        case = Case(name, model_type, (), (change,))
        found = [word for word in bench.judge(case).wrong if word.kind in ("outcome", "pass", "alarm", "own error")]
        if found:
            wrong[repr(case)] = found
    assert wrong == {}, "\n".join(f"{case}: {[w[:3] for w in words]}" for case, words in wrong.items())


@pytest.mark.parametrize(("name", "model_type"), [*SAMPLE, ("ImageGPTForCausalImageModeling", "imagegpt")])
def test_an_untouched_save_fits_its_config(name: str, model_type: str, tmp_path: Path) -> None:
    judged = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0).judge(Case(name, model_type))
    assert judged.wrong == []
    assert judged.status == "pass"
    assert tiecheck.check(tmp_path / "model", judge_for=["transformers==5"]).targets[0].status == "pass"


DRAWN = [
    Case("LukeForMaskedLM", "luke", (), (Unprefixed(rest=True),)),
    Case("PPOCRV5MobileDetForObjectDetection", "pp_ocrv5_mobile_det"),
    Case("Cosmos3OmniForConditionalGeneration", "cosmos3_omni", (("text_config.model_type", "gpt2"),)),
    Case("VisionEncoderDecoderModel", "vision-encoder-decoder", (("decoder.model_type", "trocr"),)),
]
"""Directories that load exactly and were once told to be broken: no prefix, channels by eights, other words inside."""


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: case.class_name)
def test_what_loads_exactly_is_not_told_to_be_broken(case: Case, tmp_path: Path) -> None:
    judged = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0).judge(case)
    assert judged.wrong == []


@pytest.mark.parametrize(("name", "model_type"), [*SAMPLE[-2:], ("NllbMoeForConditionalGeneration", "nllb-moe")])
def test_a_config_that_is_refused_comes_before_tensors_that_do_not_fit_it(
    name: str, model_type: str, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    sizes = [path for path, value in walk(saved(name, model_type).config) if path.split(".")[-1] in SIZES[1:]]
    for path in sizes:
        for layout in ("one", "nested pickle", "nested model"):
            judged = bench.judge(Case(name, model_type, (), (SetKey(path, 63), Layout(layout))))
            assert judged.wrong == [], judged.case


EMPTY = [
    ("Dots1ForCausalLM", "dots1", "n_shared_experts"),
    ("EsmForMaskedLM", "esm", "vocab_size"),
    ("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", "head_dim"),
    ("NemotronForCausalLM", "nemotron", "num_key_value_heads"),
    ("TimeSeriesTransformerModel", "time_series_transformer", "prediction_length"),
]
"""Fields that are none by default, and with which no class of the config is built so."""


@pytest.mark.parametrize(("name", "model_type", "key"), sampled(EMPTY))
@pytest.mark.parametrize("value", [..., None])
def test_a_field_that_has_no_value_anywhere_ends_a_load(
    name: str, model_type: str, key: str, value: Any, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    assert bench.judge(Case(name, model_type)).status == "pass"
    judged = bench.judge(Case(name, model_type, (), (SetKey(key, value),)))
    assert (judged.wrong, judged.status) == ([], "fail")


TAKEN = [
    ("FSMTForConditionalGeneration", "fsmt", "decoder", {"model_type": "fsmt_decoder", "vocab_size": 160}),
    ("PixtralVisionModel", "pixtral", "rope_parameters", {"rope_type": "default"}),
    ("Glm5NextForConditionalGeneration", "glm5_next", "vision_config.rope_parameters", {"rope_type": "default"}),
    ("SwitchTransformersModel", "switch_transformers", "text_config", {"model_type": "llama"}),
]
"""What looks foreign in a config and is taken: 4.57 wrote the first, the plain rope type stands for a class's own."""


@pytest.mark.parametrize(("name", "model_type", "key", "value"), TAKEN)
def test_no_alarm_of_what_is_taken(name: str, model_type: str, key: str, value: Any, tmp_path: Path) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    for more in ((), (SetKey("quantization_config", {}),) if key == "text_config" else ()):
        judged = bench.judge(Case(name, model_type, (), (SetKey(key, value), *more)))
        assert judged.wrong == []


WORDED = [
    ("ModernBertForMaskedLM", "modernbert", "classifier_activation"),
    ("XLNetForSequenceClassification", "xlnet", "summary_activation"),
    ("MBartForConditionalGeneration", "mbart", "activation_function"),
    ("BigBirdPegasusModel", "bigbird_pegasus", "attention_type"),
]
"""Words that the base model of a class does not read, or that stand in a base of the same kind alone."""


@pytest.mark.parametrize(("name", "model_type", "key"), sampled(WORDED))
def test_a_word_is_no_pass_where_any_class_of_the_kind_refuses_it(
    name: str, model_type: str, key: str, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    judged = bench.judge(Case(name, model_type, (), (SetKey(key, "no_such_word"),)))
    assert judged.wrong == []
    assert judged.status in {"fail", "unknown"}


SWITCHED = [
    ("FalconForCausalLM", "falcon", "multi_query", False),
    ("FalconForCausalLM", "falcon", "new_decoder_architecture", True),
    ("GPTBigCodeForCausalLM", "gpt_bigcode", "multi_query", False),
    ("RoCBertForMaskedLM", "roc_bert", "enable_shape", False),
]
"""Truth values that make a packed matrix wider or narrower than any field says by itself."""


@pytest.mark.parametrize(("name", "model_type", "key", "value"), SWITCHED)
def test_a_switch_of_a_packed_matrix_is_held_against_what_is_stored(
    name: str, model_type: str, key: str, value: bool, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    turned = bench.judge(Case(name, model_type, (), (SetKey(key, value),)))
    assert (turned.wrong, turned.status) == ([], "unknown")
    saved_so = bench.judge(Case(name, model_type, ((key, value),)))
    assert (saved_so.wrong, saved_so.status) == ([], "pass")
    back = bench.judge(Case(name, model_type, ((key, value),), (SetKey(key, not value),)))
    assert (back.wrong, back.status) == ([], "unknown")


@pytest.mark.parametrize(("name", "model_type"), [("WavLMForCTC", "wavlm"), ("Wav2Vec2ForCTC", "wav2vec2")])
def test_a_switch_that_takes_one_of_two_equal_numbers_is_held_against_what_is_stored(
    name: str, model_type: str, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    for changes, status in (((), "pass"), ((SetKey("add_adapter", True),), "unknown")):
        judged = bench.judge(Case(name, model_type, (), changes))
        assert (judged.wrong, judged.status) == ([], status)


HEADED = [
    ("BertForMultipleChoice", "bert"),
    ("BertForTokenClassification", "bert"),
    ("DistilBertForSequenceClassification", "distilbert"),
    ("GPT2ForSequenceClassification", "gpt2"),
    ("ModernBertForMultipleChoice", "modernbert"),
    ("ViTForImageClassification", "vit"),
    ("YolosForObjectDetection", "yolos"),
]
"""Heads with a row for each label, with one more, and with rows that no config changes."""


def relabelled(model_type: str, rng: random.Random) -> list[Any]:
    """Draw other numbers of labels, under either key and under both, and other tasks of the same base model."""
    few, many = ({str(i): f"l{i}" for i in range(count)} for count in rng.sample(range(1, 6), 2))
    drawn: list[Any] = [(), (SetKey("id2label", few),), (SetKey("num_labels", len(many)),), (SetKey("id2label", None),)]
    drawn += [(SetKey("id2label", few), SetKey("num_labels", len(many)))]
    tasks = [name for name in siblings(model_type) if "For" in name]
    return drawn + [(Classes((name,)),) for name in rng.sample(tasks, min(2, len(tasks)))]


@pytest.mark.parametrize(("name", "model_type"), sampled(HEADED))
def test_a_head_is_held_against_the_labels_and_the_task_that_the_config_says(
    name: str, model_type: str, tmp_path: Path
) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    statuses = []
    for changes in relabelled(model_type, random.Random(name)):
        judged = bench.judge(Case(name, model_type, (), changes))
        assert judged.wrong == [], judged.case
        statuses.append(judged.status)
    assert statuses[0] == "pass"
    assert len(set(statuses)) > 1


@pytest.mark.parametrize("size", [32, 64])
def test_a_key_that_stands_for_another_is_the_one_that_is_taken(size: int, tmp_path: Path) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    judged = bench.judge(Case("GPT2LMHeadModel", "gpt2", (), (SetKey("hidden_size", size),)))
    assert (judged.wrong, judged.status) == ([], "pass" if size == 64 else "fail")
    assert size == 64 or any(f"hidden_size {size}" in f.message for f in tiecheck.check(bench.where).findings)


ADAPTED = [("Wav2Vec2BertForSequenceClassification", "wav2vec2-bert"), ("HubertForCTC", "hubert"), ("SEWForCTC", "sew")]
"""Classes that refuse a switch which their base model takes; the last two ask for a key that their config lacks."""


@pytest.mark.parametrize(("name", "model_type"), [*ADAPTED, ("Wav2Vec2BertForCTC", "wav2vec2-bert")])
def test_no_pass_where_a_task_refuses_a_switch_of_its_base_model(name: str, model_type: str, tmp_path: Path) -> None:
    bench = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0)
    for value, status in ((..., "pass"), (False, "pass"), (True, "unknown")):
        judged = bench.judge(Case(name, model_type, (), (SetKey("add_adapter", value),)))
        assert (judged.wrong, judged.status) == ([], status)


OTHERS_INSIDE = [
    ("LagunaForCausalLM", "laguna", "shared_expert_intermediate_size", ...),
    ("Qwen2MoeForCausalLM", "qwen2_moe", "shared_expert_intermediate_size", ...),
    ("MistralLarge4ForConditionalGeneration", "mistral_large4", "text_config.n_shared_experts", 0),
    ("ModernVBertForMaskedLM", "modernvbert", "text_config.model_type", "llama"),
    ("Qwen3ASRForConditionalGeneration", "qwen3_asr", "audio_config.model_type", "llama"),
    ("T5Gemma2ForConditionalGeneration", "t5gemma2", "encoder.model_type", None),
]
"""A width of which alone tensors speak that are saved under other names, and sections of another type."""


@pytest.mark.parametrize(("name", "model_type", "key", "value"), OTHERS_INSIDE)
def test_no_pass_where_another_model_is_built_inside(
    name: str, model_type: str, key: str, value: object, tmp_path: Path
) -> None:
    judged = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0).judge(
        Case(name, model_type, (), (SetKey(key, value),))
    )
    assert judged.wrong == []
    assert judged.status in ("fail", "unknown")


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_columns_that_follow_the_number_of_layers_fit(layers: int, tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "vocab_size_per_layer_input": 64, "hidden_size": 32, "hidden_size_per_layer_input": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16}
    config = transformers.Gemma4TextConfig(**sizes, **heads, intermediate_size=32, num_hidden_layers=layers)
    transformers.Gemma4ForCausalLM(config).save_pretrained(tmp_path)
    assert tiecheck.check(tmp_path, select=["TIE207"]).findings == ()
    text = (tmp_path / "config.json").read_text()
    wider = text.replace('"hidden_size_per_layer_input": 8', '"hidden_size_per_layer_input": 16')
    (tmp_path / "config.json").write_text(wider)
    with pytest.raises(Exception, match="size"):
        transformers.Gemma4ForCausalLM.from_pretrained(tmp_path)
    assert [finding.code for finding in tiecheck.check(tmp_path, select=["TIE207"]).findings] == ["TIE207"]


TURNED = [
    ("GptOssForCausalLM", "gpt_oss", True),
    ("Lfm2ForCausalLM", "lfm2", False),
    ("MvpForConditionalGeneration", "mvp", False),
    ("Qwen2MoeForCausalLM", "qwen2_moe", True),
]
"""Classes whose untouched save hurts an engine, or the other line, where the flag is not its default."""


@pytest.mark.parametrize(("name", "model_type", "flag"), TURNED)
def test_what_hurts_engines_alone_is_a_note_for_transformers(
    name: str, model_type: str, flag: bool, tmp_path: Path
) -> None:
    Case(name, model_type, (("tie_word_embeddings", flag),)).write(tmp_path)
    report = tiecheck.check(tmp_path, judge_for=["transformers==5"])
    assert [finding.code for finding in report.findings if finding.severity != "info"] == []


@pytest.mark.slow
def test_untouched_saves_of_drawn_classes_have_no_finding_for_transformers(tmp_path: Path) -> None:
    bench, loud = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0), {}
    for save in pool(412, 25):
        judged = bench.judge(untouched(save))
        assert judged.wrong == [], judged.case
        report = tiecheck.check(bench.where, judge_for=["transformers==5"])
        if judged.healthy and any(finding.severity != "info" for finding in report.findings):
            loud[repr(judged.case)] = report.findings
    assert loud == {}
