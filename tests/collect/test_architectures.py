"""The tie table and its reader, against facts that are known and against the library itself."""

import subprocess
import sys
import time

import pytest

from tiecheck.collect import architectures
from tiecheck.collect.architectures import load_architecture

LLAMA = ("lm_head.weight", "model.embed_tokens.weight")
SAMPLE = ["gpt2", "llama", "t5", "bart", "bert", "gemma3", "llava", "opt", "gpt_neox", "bloom", "cohere", "roberta"]


def only_tie(class_name, model_type, **more):
    found = load_architecture(class_name, model_type, **more)
    assert found.known
    assert len(found.ties) == 1
    return found.ties[0]


def test_a_default_tie_that_the_flag_undoes():
    tie = only_tie("GPT2LMHeadModel", "gpt2")
    assert tie.names == ("lm_head.weight", "transformer.wte.weight")
    assert tie.source == "transformer.wte.weight"
    assert (tie.kind, tie.silent, tie.on, tie.off, tie.level, tie.exact) == ("parameter", True, True, False, (), True)
    assert "wte.weight" in tie.spellings["transformer.wte.weight"]


def test_a_tie_that_needs_the_flag():
    tie = only_tie("LlamaForCausalLM", "llama")
    assert tie.names == LLAMA
    assert (tie.silent, tie.on, tie.off) == (False, True, False)


def test_a_tie_that_the_config_forces():
    tie = only_tie("T5ForConditionalGeneration", "t5")
    assert tie.names == (
        "decoder.embed_tokens.weight",
        "encoder.embed_tokens.weight",
        "lm_head.weight",
        "shared.weight",
    )
    assert tie.source == "shared.weight"
    assert (tie.silent, tie.on, tie.off) == (True, True, True)


def test_an_encoder_decoder():
    tie = only_tie("BartForConditionalGeneration", "bart")
    assert tie.names == (
        "lm_head.weight",
        "model.decoder.embed_tokens.weight",
        "model.encoder.embed_tokens.weight",
        "model.shared.weight",
    )
    assert tie.source == "model.shared.weight"
    assert (tie.silent, tie.on, tie.off) == (True, True, False)


def test_a_masked_lm_ties_weight_and_bias():
    ties = load_architecture("BertForMaskedLM", "bert").ties
    assert [tie.names for tie in ties] == [
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ]


@pytest.mark.parametrize(
    ("class_name", "model_type"), [("BertModel", "bert"), ("LlamaForSequenceClassification", "llama")]
)
def test_a_class_that_ties_nothing_is_known(class_name, model_type):
    found = load_architecture(class_name, model_type)
    assert found.known
    assert found.ties == ()


@pytest.mark.parametrize(
    ("class_name", "name", "spelling"),
    [
        (
            "Gemma3ForConditionalGeneration",
            "model.language_model.embed_tokens.weight",
            "language_model.model.embed_tokens.weight",
        ),
        ("Gemma3ForConditionalGeneration", "lm_head.weight", "language_model.lm_head.weight"),
        (
            "LlavaForConditionalGeneration",
            "model.language_model.embed_tokens.weight",
            "language_model.model.embed_tokens.weight",
        ),
        (
            "Qwen2VLForConditionalGeneration",
            "model.language_model.embed_tokens.weight",
            "model.embed_tokens.weight",
        ),
        ("GPTNeoXForCausalLM", "lm_head.weight", "embed_out.weight"),
        ("BloomForCausalLM", "transformer.word_embeddings.weight", "word_embeddings.weight"),
    ],
)
def test_a_legacy_spelling(class_name, name, spelling):
    model_type = "gemma3" if class_name.startswith("Gemma3") else None
    assert spelling in only_tie(class_name, model_type).spellings[name]


def test_a_nested_flag_decides_where_the_class_forwards_it():
    forwards = {"model_type": "llava", "text_config": {"tie_word_embeddings": True}}
    tie = only_tie("LlavaForConditionalGeneration", "llava", config=forwards)
    assert (tie.level, tie.on, tie.off) == (("text_config",), True, False)
    against = forwards | {"tie_word_embeddings": False}
    assert only_tie("LlavaForConditionalGeneration", "llava", config=against).level == ("text_config",)
    silent = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    tie = only_tie("LlavaForConditionalGeneration", "llava", config=silent)
    assert (tie.level, tie.silent, tie.exact) == ((), False, True)


def test_the_inner_model_decides_what_silence_means():
    gemma = {"model_type": "llava", "text_config": {"model_type": "gemma"}}
    tie = only_tie("LlavaForConditionalGeneration", "llava", config=gemma)
    assert (tie.silent, tie.on, tie.off, tie.exact) == (True, True, True, True)


@pytest.mark.parametrize("config", [None, {"text_config": {"model_type": "opt"}}])
def test_an_inner_model_that_the_table_does_not_know(config):
    assert not only_tie("LlavaForConditionalGeneration", "llava", config=config).exact


def test_a_nested_flag_that_the_class_ignores():
    ignores = {"model_type": "llava_next", "text_config": {"tie_word_embeddings": True}}
    tie = only_tie("LlavaNextForConditionalGeneration", "llava_next", config=ignores)
    assert (tie.level, tie.silent) == ((), False)


def test_a_tie_that_only_two_flags_undo():
    one = {"model_type": "hunyuan_vl", "tie_word_embeddings": False}
    assert only_tie("HunYuanVLForConditionalGeneration", "hunyuan_vl", config=one).off
    both = one | {"text_config": {"tie_word_embeddings": False}}
    assert not only_tie("HunYuanVLForConditionalGeneration", "hunyuan_vl", config=both).off


def test_names_that_hang_on_the_config_are_marked():
    ties = load_architecture("DFineForObjectDetection", "d_fine").ties
    assert ties
    assert not any(tie.exact for tie in ties)


def test_an_unknown_class():
    for class_name in (
        "OLMoForCausalLM",
        "",
        None,
        "=",
        "=8b65f14",
        "#",
        "Llama\tForCausalLM",
        "LlamaForCausal",
        "gpt2",
    ):
        found = load_architecture(class_name, "olmo")
        assert not found.known
        assert found.ties == ()
        assert found.origin.startswith("transformers 5.")
        assert found.head_scale is None


def test_a_class_under_another_model_type_is_unknown():
    found = load_architecture("LlamaForCausalLM", "my_llama")
    assert not found.known
    assert "llama" in found.origin


@pytest.mark.parametrize(
    ("class_name", "width", "config", "scale"),
    [
        ("GPT2LMHeadModel", None, None, 1.0),
        ("T5ForConditionalGeneration", 64, None, 0.125),
        ("T5ForConditionalGeneration", 64, {"tie_word_embeddings": False}, 1.0),
        ("T5ForConditionalGeneration", None, None, None),
        ("CohereForCausalLM", None, {"logit_scale": 0.5}, 0.5),
        ("CohereForCausalLM", None, {}, 0.0625),
        ("GraniteForCausalLM", None, {"logits_scaling": 8.0}, 0.125),
        ("BertModel", 64, {}, None),
    ],
)
def test_head_scale(class_name, width, config, scale):
    assert load_architecture(class_name, None, width, config).head_scale == scale


def test_every_line_of_the_table_reads():
    lines = architectures._table().decode().splitlines()[1:]
    classes = {line.split("\t")[0] for line in lines if not line.startswith("=")}
    assert len(classes) > 1000
    for class_name in classes:
        for types, *_ in architectures._rows(class_name):
            for model_type in types.split(","):
                found = load_architecture(class_name, model_type)
                assert found.known
                for tie in found.ties:
                    assert tie.source in tie.names
                    assert len(set(tie.names)) == len(tie.names) > 1
                    assert list(tie.names) == sorted(tie.names)
                    assert set(tie.spellings) <= set(tie.names)
                    assert tie.silent or tie.on or tie.off


def test_reading_is_fast_and_light():
    load_architecture("GPT2LMHeadModel", "gpt2")
    best = min(_timed() for _ in range(20))
    assert best < 0.001


def _timed():
    start = time.process_time()
    load_architecture("Gemma3ForConditionalGeneration", "gemma3")
    return time.process_time() - start


def test_importing_the_reader_loads_nothing_heavy():
    code = "import sys; import tiecheck.collect.architectures; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "dataclasses", "inspect", "pathlib", "click"} & set(loaded)


def _generate(*arguments):
    command = [sys.executable, "-m", "tiecheck.data.generate", "--check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def same_library():
    transformers = pytest.importorskip("transformers")
    if architectures.table_version() != transformers.__version__:
        pytest.skip(f"the table is of transformers {architectures.table_version()}")


def test_a_sample_made_again_is_the_committed_table(same_library):
    done = _generate("--only", *SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_that_differs_fails_the_check(same_library, tmp_path, monkeypatch):
    from tiecheck.data import generate

    table = tmp_path / "architectures.txt"
    text = generate.PATH.read_text(encoding="utf-8")
    table.write_text(text.replace("BloomForCausalLM\t", "BloomForCausalLM2\t"), encoding="utf-8")
    monkeypatch.setattr(generate, "PATH", table)
    assert generate.main(["--check", "--only", "bloom"]) == 1
    assert generate.main(["--only", "bloom"]) == 0
    assert generate.parse(text) == [r for r in generate.parse(table.read_text()) if r.class_name != "BloomForCausalLM2"]


@pytest.mark.slow
def test_the_whole_table_made_again_is_the_committed_one(same_library):
    done = _generate()
    assert done.returncode == 0, done.stdout + done.stderr
