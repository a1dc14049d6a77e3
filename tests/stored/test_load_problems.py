"""Reasons for which transformers does not load a directory: what is said is held against its own from_pretrained."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import built
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

from tiecheck.api import check
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.live.rehearsal import rehearse
from tiecheck.records.report import TargetReport
from tiecheck.stored.load_problems import FORMATS, beside_adapter, load_problems
from tiecheck.stored.refused_loads import DTYPE, FLOATS
from tiecheck.tables.structure import class_structure, known_words

CLASSES = ("LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration", "BartForConditionalGeneration")
Change = Callable[[Path], None]


def other_name(where: Path) -> None:
    (where / "model.safetensors").rename(where / "weights.safetensors")


def nested(where: Path) -> None:
    tensors = load_file(where / "model.safetensors")
    (where / "model.safetensors").unlink()
    torch.save({"model": tensors}, where / "pytorch_model.bin")


def edited(key: str, value: object) -> Change:
    def change(where: Path) -> None:
        config = json.loads((where / "config.json").read_text())
        (where / "config.json").write_text(json.dumps(config | {key: value}))

    return change


def no_format(where: Path) -> None:
    save_file(load_file(where / "model.safetensors"), where / "model.safetensors", metadata={"made_by": "somebody"})


def no_index_metadata(where: Path) -> None:
    tensors = load_file(where / "model.safetensors")
    (where / "model.safetensors").rename(where / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (where / "model.safetensors.index.json").write_text(json.dumps(index))


CHANGES: dict[str, tuple[Change, tuple[str, str] | None]] = {
    "another name": (other_name, ("TIE206", "crash")),
    "tensors below a key": (nested, ("TIE206", "embedding-random")),
    "more words in the config": (edited("vocab_size", 404), ("TIE207", "crash")),
    "fewer words in the config": (edited("vocab_size", 396), ("TIE207", "crash")),
    "the flag as text": (edited("tie_word_embeddings", "false"), ("TIE112", "crash")),
    "the flag as a number": (edited("tie_word_embeddings", 1), ("TIE112", "crash")),
    "a dtype with its module": (edited("dtype", "torch.float16"), ("TIE207", "crash")),
    "a dtype for a caller": (edited("dtype", "auto"), ("TIE207", "crash")),
    "a dtype that is no float": (edited("dtype", "bit"), ("TIE207", "crash")),
    "a dtype by a shorter name": (edited("dtype", "half"), None),
    "a quantisation without a method": (edited("quantization_config", {"bits": 4}), ("TIE207", "crash")),
    "a section of another class": (edited("text_config", {"model_type": "llama"}), ("TIE207", "crash")),
    "an index of names alone": (no_index_metadata, ("TIE206", "crash")),
    "a field that nobody reads": (edited("made_by", "somebody"), None),
}


def saved(name: str, where: Path) -> TargetReport:
    built(name).save_pretrained(where)
    return check(str(where)).targets[0]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_load_is_no_pass(name: str, change: str, tmp_path: Path) -> None:
    assert saved(name, tmp_path).status == "pass"
    edit, said = CHANGES[change]
    edit(tmp_path)
    (report,) = check(str(tmp_path)).targets
    real = rehearse(str(tmp_path))
    if said is None:
        assert (report.status, real.raised) == ("pass", None)
        return
    code, outcome = said
    if code == "TIE112" and name == "T5ForConditionalGeneration":  # its config does not validate the flag
        assert (real.raised, report.findings) == (None, ())
        return
    assert code in {f.code for f in report.findings if f.severity == "error"}
    assert {v.outcome for v in report.loaders if (v.loader, v.versions) == ("transformers", "5")} == {outcome}
    assert (real.raised is not None) == (outcome == "crash")
    assert {f.code for f in report.findings if f.severity != "info"} == {code}


def test_the_floats_are_those_that_torch_takes_for_its_default() -> None:
    usual = torch.get_default_dtype()
    names = {name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    taken = set()
    for name in names:
        with contextlib.suppress(TypeError):
            torch.set_default_dtype(getattr(torch, name))
            taken.add(name)
    torch.set_default_dtype(usual)
    assert taken == FLOATS
    assert [name for name in names if not DTYPE.fullmatch(name)] == []


@pytest.mark.parametrize("held", [{}, {"quant_method": None}, {"quant_method": "gptq"}, "none", 0])
def test_a_quantisation_without_a_method_is_no_pass(held: object, tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    edited("quantization_config", held)(tmp_path)
    (report,) = check(str(tmp_path)).targets
    assert ("TIE207", "error") in {(f.code, f.severity) for f in report.findings}
    assert rehearse(str(tmp_path)).raised is not None


@pytest.mark.parametrize("name", CLASSES)
def test_padding_beyond_the_words_is_told_of_the_classes_that_refuse_it(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    edited("pad_token_id", 10**6)(tmp_path)
    (report,) = check(str(tmp_path)).targets
    raised = rehearse(str(tmp_path)).raised
    assert {f.code for f in report.findings if f.hurts is None or len(f.hurts) == 2} == (
        {"TIE207"} if raised else set()
    )
    assert report.status == ("fail" if raised else "pass")
    assert (raised is not None) == (name in ("LlamaForCausalLM", "BartForConditionalGeneration"))


@pytest.mark.parametrize("name", CLASSES)
def test_a_word_that_the_library_does_not_know_is_no_pass(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    kind, _ = class_structure(name, config["model_type"]) or ("", {})
    fields = [one for one in known_words(kind, "5") if "." not in one[0]]
    assert fields
    for field, words, _ in fields:
        for word in ("no_such_word", min(words - {config.get(field)}), max(words)):
            (tmp_path / "config.json").write_text(json.dumps(config | {field: word}))
            raised = rehearse(str(tmp_path)).raised
            (report,) = check(str(tmp_path)).targets
            assert (raised is None) == (word in words)
            assert [(f.code, f.severity) for f in report.findings] == ([("TIE207", "error")] if raised else [])


@pytest.mark.parametrize("section", ["encoder", "decoder"])
def test_padding_of_a_section_is_a_row_of_its_words(section: str, tmp_path: Path) -> None:
    small = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = [BertConfig(**small, intermediate_size=37) for _ in range(2)]
    EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*parts)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for pad, status in ((98, "pass"), (99, "fail")):
        edited(section, config[section] | {"pad_token_id": pad})(tmp_path)
        assert check(str(tmp_path)).targets[0].status == status
        raised = rehearse(str(tmp_path)).raised
    assert status == "unknown" or (raised is None) == (status == "pass")


def test_no_quantisation_hurts_4_57_alone(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    edited("quantization_config", None)(tmp_path)
    (report,) = check(str(tmp_path)).targets
    assert [(f.code, f.severity, f.hurts) for f in report.findings] == [("TIE207", "warning", ("transformers 4.57",))]


def test_what_mlx_wrote_is_for_mlx(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    no_index_metadata(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    save_file(load_file(file), file, metadata={"format": "mlx"})
    assert check(str(tmp_path)).targets[0].findings == ()


@pytest.mark.parametrize("name", CLASSES[:2])
@pytest.mark.parametrize("change", [*(key for key, (_, said) in CHANGES.items() if said), "no format"])
@pytest.mark.parametrize("members", ["two that differ", "two that are equal", "the head alone"])
def test_of_a_load_that_does_not_come_to_the_ties_no_rule_tells_an_end(
    name: str, change: str, members: str, tmp_path: Path
) -> None:
    """One report has one word on a loader: what ends the load is told once, and no group's rule says otherwise."""
    saved(name, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (source,) = (n for n in tensors if n.endswith(("embed_tokens.weight", "wte.weight")))
    tensors["lm_head.weight"] = tensors[source] + (members == "two that differ")
    if members == "the head alone":
        del tensors[source]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    edit, said = CHANGES.get(change, (no_format, ("TIE206", "crash")))
    assert said
    edit(tmp_path)
    (report,) = check(str(tmp_path)).targets
    own = [finding for finding in report.findings if finding.code == said[0]]
    stopped = set(own[0].hurts or ())
    assert stopped
    for finding in report.findings:
        if finding not in own:
            assert not stopped & set(finding.hurts or ())
            assert not any(title in finding.message for title in stopped), finding.message


def test_a_file_that_is_named_is_judged_as_it_is(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    other_name(tmp_path)
    assert check(str(tmp_path / "weights.safetensors")).targets[0].findings == ()


def test_metadata_without_a_format_hurts_4_57_alone(tmp_path: Path) -> None:
    saved("GPT2LMHeadModel", tmp_path)
    no_format(tmp_path)
    (report,) = check(str(tmp_path)).targets
    assert [(f.code, f.severity, f.hurts) for f in report.findings] == [("TIE206", "warning", ("transformers 4.57",))]
    assert check(str(tmp_path), judge_for=("transformers==5",)).targets[0].status == "pass"


def composed(where: Path, change: dict[str, object]) -> None:
    import transformers

    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **text, **heads},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(where)
    data = json.loads((where / "config.json").read_text())
    for section, held in change.items():
        data[section] = {**data[section], **held} if isinstance(held, dict) else held
    (where / "config.json").write_text(json.dumps(data))


INSIDE: tuple[tuple[dict[str, object], str], ...] = (
    ({"text_config": {"dtype": "torch.float16"}}, "fail"),
    ({"vision_config": {"torch_dtype": []}}, "fail"),
    ({"vision_config": {"dtype": "fp16"}}, "unknown"),
    ({"vision_config": {"dtype": "int8"}}, "unknown"),
    ({"text_config": {"quantization_config": {"bits": 4}}}, "fail"),
    ({"vision_config": {"quantization_config": {"bits": 4}}}, "pass"),
    ({"vision_config": {"quantization_config": "none"}}, "fail"),
    ({"text_config": {"hidden_act": "no_such_word"}}, "fail"),
    ({"vision_config": {"hidden_act": "no_such_word"}}, "fail"),
    ({"text_config": {"rope_scaling": {"type": "no_such_word"}}}, "fail"),
    ({"text_config": {"rope_scaling": {"type": "linear", "factor": 2.0}}}, "pass"),
    ({"text_config": {"rope_parameters": {"rope_type": "linear"}}}, "fail"),
    ({"text_config": {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}}}, "fail"),
    ({"text_config": {"rope_parameters": {"rope_type": "default"}}}, "pass"),
)


@pytest.mark.parametrize(("change", "status"), INSIDE)
def test_what_a_section_holds_may_end_a_load(change: dict[str, object], status: str, tmp_path: Path) -> None:
    composed(tmp_path, change)
    assert check(str(tmp_path), judge_for=("transformers==5",)).targets[0].status == status
    raised = rehearse(str(tmp_path)).raised
    assert status == "unknown" or (raised is None) == (status == "pass")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "CLIPVisionModel"])
def test_a_class_takes_its_own_section_of_the_config_around_it(name: str, tmp_path: Path) -> None:
    composed(tmp_path, {"architectures": [name]})
    assert check(str(tmp_path)).targets[0].findings == ()
    assert rehearse(str(tmp_path)).raised is None


def test_what_the_index_alone_has_stays_on_meta_in_4_57(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    edited("tie_word_embeddings", False)(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(tensors, tmp_path / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    (tmp_path / "model.safetensors").unlink()
    for held, end in ((list(tensors), "head-random"), ([*tensors, "lm_head.weight"], "crash")):
        index = {"metadata": {}, "weight_map": dict.fromkeys(held, "model-00001-of-00001.safetensors")}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        (report,) = check(str(tmp_path), judge_for=("transformers==4.57",)).targets
        assert {view.outcome for view in report.loaders if view.versions == "4.57"} == {end}


def test_a_null_inside_is_refused_too(tmp_path: Path) -> None:
    composed(tmp_path, {"text_config": {"tie_word_embeddings": None}})
    assert rehearse(str(tmp_path)).raised is not None
    assert "TIE112" in {f.code for f in check(str(tmp_path)).targets[0].findings}


@pytest.mark.parametrize(("saves", "targets"), [(["lm_head"], ["q_proj"]), (None, ["lm_head"]), (None, ["q_proj"])])
def test_an_adapter_beside_the_model(saves: list[str] | None, targets: list[str], tmp_path: Path) -> None:
    saved("LlamaForCausalLM", tmp_path)
    adapter = {"peft_type": "LORA", "target_modules": targets, "modules_to_save": saves}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    codes = [f.code for f in check(str(tmp_path)).targets[0].findings]
    assert codes == (["TIE605"] if saves or "lm_head" in targets else [])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_problems_themselves_are_of_the_directory_or_of_the_file(name: str, change: str, tmp_path: Path) -> None:
    built(name).save_pretrained(tmp_path)
    CHANGES[change][0](tmp_path)
    (weights,) = (path for path in tmp_path.iterdir() if path.suffix in {".safetensors", ".bin"})
    config, checkpoint = read_config(str(tmp_path)), read_checkpoint(str(weights))
    as_file, as_directory = (load_problems(config, checkpoint, whole=whole) for whole in (False, True))
    assert {p.kind for p in as_directory} - {p.kind for p in as_file} == (
        {"name"} if change in ("another name", "an index of names alone") else set()  # a shard is read
    )
    assert load_problems(None, checkpoint, whole=True) == ()
    for problem in as_directory:
        assert (tmp_path / problem.file).exists()
        assert problem.edits or problem.no_mend.endswith(".")


@pytest.mark.parametrize("said", [*FORMATS, "numpy", None])
def test_the_formats_are_those_that_safetensors_files_have(said: str | None, tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": said} if said else {"made_by": "somebody"})
    kinds = {p.kind for p in load_problems(read_config(str(tmp_path)), read_checkpoint(str(file)), whole=True)}
    taken = said in ("pt", "mlx")  # 4.57 loads a single file of another framework by that framework, or raises
    assert kinds == (set() if taken else {"format"})


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '{"modules_to_save": 7, "target_modules": [1, "lm_head"]}'])
def test_an_adapter_config_may_hold_anything(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    names = ["adapter_config.json", "adapter_model.safetensors"]
    found = beside_adapter(str(tmp_path), names)
    assert (found and (found.saved, found.targets, found.base)) == (
        ((), ("lm_head",), None) if "lm_head" in text else None
    )
    alone = beside_adapter(str(tmp_path), names[:1])
    assert (alone and alone.files) == (("adapter_config.json",) if "lm_head" in text else None)


def test_what_4_57_refuses_of_a_class_that_it_does_not_have_hurts_nobody(models: Path, tmp_path: Path) -> None:
    for name, told in (("LlamaForCausalLM", ["TIE206"]), ("FlintForCausalLM", [])):
        where = Path(shutil.copytree(models / "llama-healthy-tied", tmp_path / name))
        save_file(load_file(where / "model.safetensors"), where / "model.safetensors", metadata={"made": "by hand"})
        config = json.loads((where / "config.json").read_text()) | {"architectures": [name]}
        config["model_type"] = name.removesuffix("ForCausalLM").lower()
        (where / "config.json").write_text(json.dumps(config))
        assert [f.code for f in check(where).findings if f.code == "TIE206"] == told


@pytest.mark.parametrize(
    ("named", "status"),
    [
        *((name, "unknown") for name in ("gone.safetensors", "a\0b.safetensors", "../x.safetensors", "w.safetensors")),
        *((name, "fail") for name in ("x.txt", "", 5, [], True)),
        *((name, "pass") for name in (None, "model.safetensors", "./model.safetensors")),
    ],
)
def test_a_config_that_names_another_file_is_no_pass(models: Path, tmp_path: Path, named: object, status: str) -> None:
    """Each was given to both lines: they read the named file, and raise where it is not there or no such name."""
    shutil.copytree(models / "llama-healthy-tied", tmp_path / "m")
    shutil.copy(tmp_path / "m" / "model.safetensors", tmp_path / "m" / "w.safetensors")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_weights": named}))
    (target,) = check(tmp_path / "m").targets
    assert target.status == status
    assert status == "pass" or "transformers_weights" in json.dumps(target)


def small(name: str, where: Path) -> TargetReport:
    """A class that no other test here needs, small."""
    import transformers

    sizes = {"vocab_size": 72, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 40, "entity_vocab_size": 20, "entity_emb_size": 16}
    cls = getattr(transformers, name)
    cls(cls.config_class(**sizes, pad_token_id=0)).save_pretrained(where)
    return check(str(where)).targets[0]


AXES = [
    ("RobertaForMaskedLM", "lm_head.bias", (7,)),
    ("IBertForMaskedLM", "lm_head.bias", (1,)),
    ("FNetForMaskedLM", "cls.predictions.bias", ()),
    ("LlamaForCausalLM", "model.norm.weight", ()),
    ("LlamaForCausalLM", "model.embed_tokens.weight", (-1,)),
]
"""A tensor with more or fewer axes than its class builds: the second axis, none at all, or all numbers in a row."""


@pytest.mark.parametrize(("name", "tensor", "shape"), AXES)
def test_a_tensor_with_another_number_of_axes_is_no_pass(
    name: str, tensor: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    assert small(name, tmp_path).status == "pass"
    tensors = load_file(tmp_path / "model.safetensors")
    held = tensors[tensor]
    axes = () if not shape else (held.numel(),) if -1 in shape else (len(held), *shape)
    tensors[tensor] = torch.zeros(axes)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (report,) = check(str(tmp_path)).targets
    assert rehearse(str(tmp_path)).raised is not None
    assert [(f.code, f.names) for f in report.findings if f.severity == "error"] == [("TIE207", (tensor,))]


@pytest.mark.parametrize("name", ["FNetForMaskedLM", "LukeForMaskedLM", "BertForMaskedLM"])
@pytest.mark.parametrize("change", [str, lambda rows: rows + 1], ids=["text", "one more"])
def test_of_several_vocabularies_the_right_one_is_named(
    name: str, change: Callable[[int], object], tmp_path: Path
) -> None:
    small(name, tmp_path)
    edited("vocab_size", change(json.loads((tmp_path / "config.json").read_text())["vocab_size"]))(tmp_path)
    messages = [f.message for f in check(str(tmp_path)).targets[0].findings]
    assert messages
    assert all("vocab_size" in one and "_vocab_size" not in one for one in messages)
    assert rehearse(str(tmp_path)).raised is not None


def test_4_57_meets_no_size_of_a_name_without_the_prefix_that_others_have(tmp_path: Path) -> None:
    """It takes no bare name where another has the base model's prefix, and makes the weight at random."""
    small("BertForMaskedLM", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = "embeddings.word_embeddings.weight"
    words = tensors.pop(f"bert.{bare}")
    tensors[bare] = torch.zeros(len(words) + 3, words.shape[1])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (report,) = check(str(tmp_path)).targets
    told = {v.versions: v.outcome for v in report.loaders if v.loader == "transformers" and bare in str(v)}
    assert [f.hurts for f in report.findings if f.code == "TIE207"] == [("transformers 5",)], told
    assert rehearse(str(tmp_path)).raised is not None
